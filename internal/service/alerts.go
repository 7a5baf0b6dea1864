package service

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// alerts is the book of what is wrong now. Each source of a cluster - its watcher, one kind of run, the stores - says what holds; what
// changed against the last time is told.
type alerts struct {
	now  func() time.Time
	tell func(Alert)

	mu   sync.Mutex
	open map[alertKey]Alert
}

type alertKey struct{ cluster, source, name string }

func newAlerts(now func() time.Time, tell func(Alert)) *alerts {
	return &alerts{now: now, tell: tell, open: map[alertKey]Alert{}}
}

// set replaces what a source says.
func (a *alerts) set(cluster, source string, problems ...Problem) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, old := range a.open {
		if key.cluster == cluster && key.source == source && !slices.ContainsFunc(problems, func(p Problem) bool { return p.Name == key.name }) {
			delete(a.open, key)
			old.Over = true
			a.tell(old)
		}
	}
	for _, p := range problems {
		key := alertKey{cluster, source, p.Name}
		old, known := a.open[key]
		if known && old.Problem == p {
			continue
		}
		alert := Alert{Problem: p, Cluster: cluster, Since: a.now()}
		if known {
			alert.Since = old.Since
		}
		a.open[key] = alert
		a.tell(alert)
	}
}

// forget drops what is known of a cluster without saying that it is over: it is another replica's to say from now on.
func (a *alerts) forget(cluster string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key := range a.open {
		if key.cluster == cluster {
			delete(a.open, key)
		}
	}
}

// list is what is wrong now, of one cluster or, with "", of all and of the service itself.
func (a *alerts) list(cluster string) []Alert {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := []Alert{}
	for key, alert := range a.open {
		if cluster == "" || key.cluster == cluster {
			all = append(all, alert)
		}
	}
	slices.SortFunc(all, func(x, y Alert) int { return cmp.Or(cmp.Compare(x.Cluster, y.Cluster), cmp.Compare(x.Name, y.Name)) })
	return all
}
