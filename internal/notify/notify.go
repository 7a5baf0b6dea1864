// Package notify tells people what is wrong, and when it is over: by webhooks, chat and e-mail; and calls heartbeat URLs,
// so that silence raises the alarm elsewhere.
//
// A [Notifier] is told problems as they begin and end. It groups what comes within a short wait into one message for each receiver,
// does not repeat what a receiver knows but at long intervals, and tells recovery. A receiver that does not take a message is tried
// again, a bounded number of times with growing waits, and then with what holds by that time: a long outage of a receiver
// ends in one message that is true, instead of a queue of old ones.
//
// URLs of webhooks and passwords are secrets: no error and no log line of this package holds them.
package notify

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// A Problem is something people should know of. Cluster and Name tell problems apart.
type Problem struct {
	Cluster  string    `json:"cluster"`  // "" for the service itself
	Name     string    `json:"name"`     // of a closed set
	Severity string    `json:"severity"` // warning, unknown, critical
	What     string    `json:"what"`
	Advice   string    `json:"advice,omitempty"`
	Since    time.Time `json:"since"`

	// Happens says that each time it is told it has happened again, such as a run that fails; otherwise only its words change.
	Happens bool `json:"-"`
}

// rank orders severities.
func rank(severity string) int {
	return slices.Index([]string{"warning", "unknown", "critical"}, severity) + 1
}

// A Receiver takes messages. Calls of one receiver never overlap.
type Receiver interface {
	// Send delivers one message. It ends soon after ctx does. An error is [*Error], or that of ctx, and says nothing secret.
	Send(ctx context.Context, m Message) error
	// Kind is webhook, slack, email or heartbeat.
	Kind() string
}

// An Error says why a message was not taken, without the secrets of the receiver.
type Error struct {
	What      string
	Permanent bool          // the same message would be refused again
	Wait      time.Duration // that the receiver asked for before the next attempt
}

func (e *Error) Error() string { return e.What }

// A Target is a receiver and what it wants to know.
type Target struct {
	Name     string // for logs: the key in the configuration
	Receiver Receiver
	Severity string   // the least to tell; "" is warning
	Clusters []string // nil: all, and the service itself
}

func (t Target) wants(p Problem) bool {
	return rank(p.Severity) >= max(rank(t.Severity), 1) && (t.Clusters == nil || p.Cluster == "" || slices.Contains(t.Clusters, p.Cluster))
}

// A Heartbeat is a URL to call after each success for a cluster.
type Heartbeat struct {
	Name     string // for logs
	Cluster  string
	Receiver Receiver
}

// Options say whom to tell, and how patiently.
type Options struct {
	Targets    []Target
	Heartbeats []Heartbeat
	Host       string // of this replica, for messages

	Wait   time.Duration // how long problems are gathered into one message; 0: not at all
	Repeat time.Duration // after which what still stands is told again; 0: never

	// Sent is told of each message and heartbeat that was taken or, after the last attempt, was not. Calls may
	// come at once. May be nil.
	Sent func(kind string, ok bool)
	Log  *slog.Logger
}

// How often a message is tried, the waits between, and the pause after the last attempt, which doubles up to longPause.
const (
	attempts    = 5
	firstWait   = 2 * time.Second
	longestWait = time.Minute
	sendTimeout = 30 * time.Second
	shortPause  = time.Minute
	longPause   = 30 * time.Minute
	lastWords   = 5 * time.Second // for what is not told yet when Run ends
)

type key struct{ cluster, name string }

// A Notifier knows what stands and tells the targets. Its methods may be called at once and never wait for a receiver.
type Notifier struct {
	o Options

	mu       sync.Mutex
	standing map[key]*standing
	changed  []chan struct{} // for each target: something may be to be told
	beats    []chan struct{} // for each heartbeat
}

type standing struct {
	Problem
	times int // it happened
}

// New returns a notifier. Nothing is sent before Run.
func New(o Options) *Notifier {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Sent == nil {
		o.Sent = func(string, bool) {}
	}
	n := &Notifier{o: o, standing: map[key]*standing{}}
	for range o.Targets {
		n.changed = append(n.changed, make(chan struct{}, 1))
	}
	for range o.Heartbeats {
		n.beats = append(n.beats, make(chan struct{}, 1))
	}
	return n
}

// Problem says that a problem stands: a new one, or one whose words or severity changed.
func (n *Notifier) Problem(p Problem) {
	n.change(func() {
		k := key{p.Cluster, p.Name}
		s := n.standing[k]
		if s == nil || s.times == forgotten {
			s = &standing{}
			n.standing[k] = s
		}
		s.Problem = p
		if p.Happens || s.times == 0 {
			s.times++
		}
	})
}

// Over says that a problem is no more: whoever was told of it is told.
func (n *Notifier) Over(cluster, name string) {
	n.change(func() { delete(n.standing, key{cluster, name}) })
}

// Forget drops what stands for a cluster without a word: it is another replica's to say from now on.
func (n *Notifier) Forget(cluster string) {
	n.change(func() {
		for k, s := range n.standing {
			if k.cluster == cluster {
				s.times = forgotten
			}
		}
	})
}

// forgotten marks what is to be dropped from what targets were told, without a word.
const forgotten = -1

func (n *Notifier) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	for _, c := range n.changed {
		signal(c)
	}
}

// signal leaves a sign that lasts until it is seen.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Beat says that a backup of the cluster succeeded.
func (n *Notifier) Beat(cluster string) {
	for i, h := range n.o.Heartbeats {
		if h.Cluster == cluster {
			signal(n.beats[i])
		}
	}
}

// Run delivers until ctx ends. What is not told by then is tried once more, for a few seconds.
func (n *Notifier) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for i, t := range n.o.Targets {
		wg.Go(func() { (&teller{n: n, Target: t, told: map[key]told{}}).run(ctx, n.changed[i]) })
	}
	for i, h := range n.o.Heartbeats {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-n.beats[i]:
				}
				n.deliver(ctx, h.Name, h.Receiver, Message{Time: time.Now()})
			}
		})
	}
	wg.Wait()
}

// deliver tries a few times and says whether the message was taken.
func (n *Notifier) deliver(ctx context.Context, name string, r Receiver, m Message) bool {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		err := send(ctx, r, m)
		if err == nil {
			n.o.Sent(r.Kind(), true)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		e, known := errors.AsType[*Error](err)
		if attempt == attempts || known && e.Permanent {
			n.o.Sent(r.Kind(), false)
			n.o.Log.Error("a notification was not taken", "receiver", name, "attempts", attempt, "error", err)
			return false
		}
		pause := wait
		if known {
			pause = min(max(pause, e.Wait), longestWait)
		}
		if !sleep(ctx, pause) {
			return false
		}
		wait = min(2*wait, longestWait)
	}
}

func send(ctx context.Context, r Receiver, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return r.Send(ctx, m)
}

// sleep says whether the time has passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
