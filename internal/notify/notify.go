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

// A Target is a receiver and what it wants to know. Of one Receiver there is one target.
type Target struct {
	Name     string // for logs: the key in the configuration
	Receiver Receiver
	Severity string   // the least to tell; "" is warning
	Clusters []string // nil: all, and the service itself
}

func (t Target) wants(p Problem) bool {
	return rank(p.Severity) >= max(rank(t.Severity), 1) && t.cares(p.Cluster)
}

func (t Target) wantsNews(n News) bool {
	return rank(t.Severity) <= rank("warning") && t.cares(n.Cluster)
}

func (t Target) cares(cluster string) bool {
	return t.Clusters == nil || cluster == "" || slices.Contains(t.Clusters, cluster)
}

// A Heartbeat is a URL to call after each success for a cluster.
type Heartbeat struct {
	Name     string // for logs
	Cluster  string
	Receiver Receiver
}

// An Audience is whom to tell, and how patiently.
type Audience struct {
	Targets    []Target
	Heartbeats []Heartbeat

	Wait   time.Duration // how long problems are gathered into one message; 0: not at all
	Repeat time.Duration // after which what still stands is told again; 0: never
}

// Options say how to tell.
type Options struct {
	Audience
	Host string // of this replica, for messages

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

// A Notifier knows what stands and tells the audience. Its methods may be called at once and never wait for a receiver.
type Notifier struct {
	host string
	sent func(kind string, ok bool)
	log  *slog.Logger

	mu       sync.Mutex
	standing map[key]*standing
	wait     time.Duration // of the audience, and so on
	repeat   time.Duration
	tellers  []*teller
	beaters  []*beater
	replaced chan struct{} // closed when the audience is another one
}

type standing struct {
	Problem
	times int // it happened
}

// News is something good that happened once, such as a drill that passed. It is told once to whoever wants warnings of the cluster.
type News struct {
	Cluster string    `json:"cluster"`
	Name    string    `json:"name"` // of a closed set
	What    string    `json:"what"`
	Time    time.Time `json:"time"`
}

// mostNews bounds what is kept for a receiver that does not take messages: the oldest are dropped.
const mostNews = 20

// New returns a notifier. Nothing is sent before Run.
func New(o Options) *Notifier {
	n := &Notifier{host: o.Host, sent: o.Sent, log: o.Log, standing: map[key]*standing{}, replaced: make(chan struct{})}
	if n.log == nil {
		n.log = slog.New(slog.DiscardHandler)
	}
	if n.sent == nil {
		n.sent = func(string, bool) {}
	}
	n.Replace(o.Audience)
	return n
}

// Replace brings in another audience, while Run lasts too. A target or heartbeat whose Receiver was there before goes on as it was, and knows what it
// was told; a new one is told all that stands; one that is gone is told once more what it does not know yet.
func (n *Notifier) Replace(a Audience) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wait, n.repeat = a.Wait, a.Repeat
	var tellers []*teller
	for _, t := range a.Targets {
		i := slices.IndexFunc(n.tellers, func(old *teller) bool { return old.Receiver == t.Receiver })
		if i < 0 {
			tellers = append(tellers, &teller{n: n, Target: t, told: map[key]told{}, changed: make(chan struct{}, 1)})
		} else {
			tellers = append(tellers, n.tellers[i])
		}
	}
	var beaters []*beater
	for _, h := range a.Heartbeats {
		i := slices.IndexFunc(n.beaters, func(old *beater) bool { return old.Receiver == h.Receiver })
		if i < 0 {
			beaters = append(beaters, &beater{n: n, Heartbeat: h, due: make(chan struct{}, 1)})
		} else {
			beaters = append(beaters, n.beaters[i])
		}
	}
	n.tellers, n.beaters = tellers, beaters
	for _, t := range tellers { // of what stands, and of other waits
		signal(t.changed)
	}
	close(n.replaced)
	n.replaced = make(chan struct{})
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

// News tells something once.
func (n *Notifier) News(news News) {
	n.change(func() {
		for _, t := range n.tellers {
			if t.wantsNews(news) {
				t.news = append(t.news, news)
				t.news = t.news[max(0, len(t.news)-mostNews):]
			}
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
	for _, t := range n.tellers {
		signal(t.changed)
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
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, b := range n.beaters {
		if b.Cluster == cluster {
			signal(b.due)
		}
	}
}

// Run delivers until ctx ends. What is not told by then is tried once more, for a few seconds.
func (n *Notifier) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := map[runner]context.CancelFunc{}
	for {
		n.mu.Lock()
		wanted := map[runner]bool{}
		for _, t := range n.tellers {
			wanted[t] = true
		}
		for _, b := range n.beaters {
			wanted[b] = true
		}
		replaced := n.replaced
		n.mu.Unlock()
		for r, leave := range running {
			if !wanted[r] {
				leave()
				delete(running, r)
			}
		}
		for r := range wanted {
			if running[r] == nil {
				own, leave := context.WithCancel(ctx)
				running[r] = leave
				wg.Go(func() {
					defer leave()
					r.run(own)
				})
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-replaced:
		}
	}
}

func (n *Notifier) patience() (wait, repeat time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wait, n.repeat
}

// A runner serves one receiver until ctx ends.
type runner interface{ run(ctx context.Context) }

// A beater calls one heartbeat whenever it is due.
type beater struct {
	n *Notifier
	Heartbeat
	due chan struct{}
}

func (b *beater) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.due:
		}
		b.n.deliver(ctx, b.Name, b.Receiver, Message{Time: time.Now()})
	}
}

// deliver tries a few times and says whether the message was taken.
func (n *Notifier) deliver(ctx context.Context, name string, r Receiver, m Message) bool {
	wait := firstWait
	for attempt := 1; ; attempt++ {
		err := send(ctx, r, m)
		if err == nil {
			n.sent(r.Kind(), true)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		e, known := errors.AsType[*Error](err)
		if attempt == attempts || known && e.Permanent {
			n.sent(r.Kind(), false)
			n.log.Error("a notification was not taken", "receiver", name, "attempts", attempt, "error", err)
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
