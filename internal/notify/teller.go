package notify

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// A teller knows what its target was told, and tells it the difference to what stands.
type teller struct {
	n *Notifier
	Target
	told    map[key]told
	changed chan struct{} // something may be to be told
	news    []News        // not told yet; of the notifier's mutex
}

// told is what a target knows of a problem.
type told struct {
	Problem
	at    time.Time
	times int
}

func (t *teller) run(ctx context.Context) {
	pause := shortPause
	repeat := time.NewTimer(t.nextRepeat())
	defer repeat.Stop()
	for {
		select {
		case <-ctx.Done():
			t.lastly(ctx)
			return
		case <-t.changed:
		case <-repeat.C:
		}
		if t.difference(time.Now()).empty() {
			repeat.Reset(t.nextRepeat())
			continue
		}
		wait, _ := t.n.patience()
		if !sleep(ctx, wait) { // for what else comes
			t.lastly(ctx)
			return
		}
		m := t.difference(time.Now())
		switch {
		case m.empty():
		case t.n.deliver(ctx, t.Name, t.Receiver, m):
			t.note(m)
			pause = shortPause
		default:
			if !sleep(ctx, pause) {
				t.lastly(ctx)
				return
			}
			pause = min(2*pause, longPause)
			repeat.Reset(0) // with what holds by then
			continue
		}
		repeat.Reset(t.nextRepeat())
	}
}

// lastly tries once what is not told yet: that the service was stopped must not swallow it.
func (t *teller) lastly(ctx context.Context) {
	m := t.difference(time.Now())
	if m.empty() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	err := t.Receiver.Send(ctx, m)
	t.n.sent(t.Receiver.Kind(), err == nil)
	if err != nil {
		t.n.log.Error("a notification was not taken", "receiver", t.Name, "attempts", 1, "error", err)
	}
}

// difference is what the target does not know yet, or should be reminded of.
func (t *teller) difference(now time.Time) Message {
	t.n.mu.Lock()
	defer t.n.mu.Unlock()
	m := Message{Time: now.UTC(), Host: t.n.host, Problems: []Told{}, Recovered: []Told{}, News: append([]News{}, t.news...)}
	for k, s := range t.n.standing {
		if s.times == forgotten {
			delete(t.told, k)
			continue
		}
		if !t.wants(s.Problem) {
			continue
		}
		m.Standing++
		known, ok := t.told[k]
		again := ok && t.n.repeat > 0 && now.Sub(known.at) >= t.n.repeat
		if !ok || again || rank(s.Severity) > rank(known.Severity) {
			m.Problems = append(m.Problems, Told{Problem: s.Problem, Times: s.times, Reminder: again})
		}
	}
	for k, known := range t.told {
		if s := t.n.standing[k]; s == nil || !t.wants(s.Problem) {
			m.Recovered = append(m.Recovered, Told{Problem: known.Problem, Times: known.times, Seconds: now.Sub(known.Since).Seconds()})
		}
	}
	order := func(a, b Told) int {
		return cmp.Or(rank(b.Severity)-rank(a.Severity), cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Name, b.Name))
	}
	slices.SortFunc(m.Problems, order)
	slices.SortFunc(m.Recovered, order)
	m.describe()
	return m
}

// note remembers that the target was told.
func (t *teller) note(m Message) {
	for _, p := range m.Problems {
		t.told[key{p.Cluster, p.Name}] = told{p.Problem, m.Time, p.Times}
	}
	for _, p := range m.Recovered {
		delete(t.told, key{p.Cluster, p.Name})
	}
	t.n.mu.Lock()
	defer t.n.mu.Unlock()
	t.news = slices.DeleteFunc(t.news, func(n News) bool { return slices.Contains(m.News, n) })
}

// nextRepeat is how long until something is to be told again.
func (t *teller) nextRepeat() time.Duration {
	next := 365 * 24 * time.Hour // the timer must be set to something
	_, repeat := t.n.patience()
	if repeat <= 0 {
		return next
	}
	for _, known := range t.told {
		next = min(next, time.Until(known.at.Add(repeat)))
	}
	return max(next, 0)
}
