package service

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

// ClusterState is one cluster in the answer to GET /api/v1/clusters, and on the page.
type ClusterState struct {
	Cluster string             `json:"cluster"`
	Role    Role               `json:"role"`
	Held    bool               `json:"held"`
	Next    map[Kind]time.Time `json:"next"`
	Alerts  int                `json:"alerts"`
	Backups *int               `json:"backups"` // null on a replica that does not do the work, as all that follows
	Newest  string             `json:"newest,omitempty"`
	Time    *time.Time         `json:"newest_time,omitempty"`

	Revision int64        `json:"newest_revision,omitempty"`
	Verified *time.Time   `json:"newest_verified_at,omitempty"`
	Drilled  *Rehearsed   `json:"newest_drill,omitempty"` // the last that came to a verdict about the newest backup
	Failed   int          `json:"failed"`                 // backups whose last verification failed
	Drill    *DrillState  `json:"last_drill,omitempty"`   // the newest that proved a restore, where drills are asked for
	Stores   []StoreState `json:"stores,omitempty"`       // in the order of their names
	Listed   *time.Time   `json:"listed_at,omitempty"`    // when the stores were listed for this
}

// Rehearsed is what a drill found about a backup.
type Rehearsed struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	OK   bool      `json:"ok"`
}

// DrillState is a drill that proved a restore.
type DrillState struct {
	Time time.Time `json:"time"`
	RPO  float64   `json:"rpo_seconds"`
	RTO  float64   `json:"rto_seconds"`
}

// StoreState says whether a store answered when it was listed last.
type StoreState struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
}

func (s *Service) states() []ClusterState {
	all := []ClusterState{}
	for _, u := range s.sorted() {
		now := u.current()
		c := ClusterState{Cluster: now.Cluster, Role: now.Role, Held: now.Held, Next: now.Next, Alerts: len(s.alerts.list(now.Cluster))}
		if now.Stored != nil {
			c.stored(*now.Stored)
		}
		all = append(all, c)
	}
	return all
}

// stored fills in what listings tell.
func (c *ClusterState) stored(s Stored) {
	n := len(s.Backups)
	c.Backups, c.Listed = &n, &s.At
	var newest *catalog.Snapshot
	for i, b := range s.Backups {
		switch {
		case b.Failed():
			c.Failed++
		case newest == nil || b.Time.After(newest.Time):
			newest = &s.Backups[i]
		}
	}
	if newest != nil {
		c.Newest, c.Time, c.Revision = newest.ID, &newest.Time, newest.Revision
		if !newest.VerifiedAt.IsZero() {
			c.Verified = &newest.VerifiedAt
		}
		if d := newest.Drilled; d.Known() {
			c.Drilled = &Rehearsed{d.ID, d.Time, !d.Failed}
		}
	}
	if s.Drill != nil {
		c.Drill = &DrillState{s.Drill.Time, s.Drill.RPO.Seconds(), s.Drill.RTO.Seconds()}
	}
	for _, name := range slices.Sorted(maps.Keys(s.StoreErr)) {
		c.Stores = append(c.Stores, StoreState{name, s.StoreErr[name] == nil})
	}
}

// Status is all that the page shows: what the API says of clusters and of what is wrong.
type Status struct {
	Now      time.Time
	Host     string
	Version  string
	Down     string // why schedules are not followed; "" if they are
	Metrics  bool   // there are some
	Clusters []ClusterState
	Alerts   []Alert
}

func (a API) status() Status {
	s := Status{Now: a.Service.o.Now().UTC(), Host: a.Service.o.Host, Version: a.Service.o.Version, Metrics: a.Metrics != nil, Clusters: a.Service.states(), Alerts: a.Service.alerts.list("")}
	if err := a.Service.Ready(); err != nil {
		s.Down = err.Error()
	}
	return s
}

// worst orders severities, the worst first; what is none comes last.
func worst(s Severity) int {
	switch s {
	case Critical:
		return 0
	case Warning:
		return 1
	case Unknown:
		return 2
	}
	return 3
}

// of are the faults of a cluster, or with "" of the service itself, the worst first.
func (s Status) of(cluster string) []Alert {
	var found []Alert
	for _, a := range s.Alerts {
		if a.Cluster == cluster {
			found = append(found, a)
		}
	}
	slices.SortStableFunc(found, func(a, b Alert) int { return cmp.Compare(worst(a.Severity), worst(b.Severity)) })
	return found
}
