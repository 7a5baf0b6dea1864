package notify

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fake takes messages, or refuses them while err says so.
type fake struct {
	mu       sync.Mutex
	err      error
	messages []Message
	tries    int
}

func (f *fake) Kind() string { return "webhook" }

func (f *fake) Send(_ context.Context, m Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tries++
	if f.err != nil {
		return f.err
	}
	f.messages = append(f.messages, m)
	return nil
}

func (f *fake) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

// tried is how often it was asked, and forgets it.
func (f *fake) tried() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.tries
	f.tries = 0
	return n
}

// all are the messages taken so far.
func (f *fake) all() []Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.messages)
}

// took is what was taken since the last call, as "summary".
func (f *fake) took() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, m := range f.messages {
		all = append(all, m.Summary)
	}
	f.messages = nil
	return strings.Join(all, " | ")
}

func problem(cluster, name, severity string) Problem {
	return Problem{Cluster: cluster, Name: name, Severity: severity, What: name + " is wrong", Since: time.Now()}
}

// run runs a notifier in a bubble until f returns.
func run(t *testing.T, o Options, f func(n *Notifier)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(o)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { n.Run(ctx) })
		synctest.Wait()
		f(n)
		cancel()
		wg.Wait()
	})
}

func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestGroupedOnceAndRecovered(t *testing.T) {
	f := &fake{}
	run(t, Options{Audience: Audience{Targets: []Target{{Receiver: f}}, Wait: 30 * time.Second, Repeat: 12 * time.Hour}}, func(n *Notifier) {
		expect := func(want string) {
			t.Helper()
			if got := f.took(); got != want {
				t.Errorf("told %q, want %q", got, want)
			}
		}
		n.Problem(problem("dcs", "rpo", "critical"))
		after(10 * time.Second)
		n.Problem(problem("lab", "lag", "warning"))
		expect("")
		after(21 * time.Second)
		expect("CRITICAL: 2 problems: dcs, lab")

		for range 5 { // the same fails again and again
			again := problem("dcs", "rpo", "critical")
			again.Happens = true
			n.Problem(again)
			n.Problem(problem("lab", "lag", "warning")) // other words are nothing new
			after(time.Hour)
		}
		expect("")
		n.Problem(problem("lab", "lag", "critical"))
		after(time.Minute)
		expect("CRITICAL: lab: lag is wrong")
		after(8 * time.Hour)
		if got := f.all(); len(got) != 1 || len(got[0].Problems) != 1 || !got[0].Problems[0].Reminder || got[0].Problems[0].Times != 6 || !strings.Contains(got[0].Text, "(6 times)") || got[0].Standing != 2 {
			t.Errorf("half a day later: %+v", got)
		}
		f.took()

		n.Over("lab", "lag")
		n.Over("dcs", "rpo")
		after(time.Minute)
		expect("2 recovered: dcs, lab")
		after(48 * time.Hour)
		expect("")

		n.Problem(problem("dcs", "rpo", "warning"))
		n.Over("dcs", "rpo")
		after(time.Minute)
		expect("")
	})
}

func TestTargetsWantDifferentThings(t *testing.T) {
	all, critical, lab := &fake{}, &fake{}, &fake{}
	run(t, Options{Audience: Audience{Targets: []Target{{Receiver: all}, {Receiver: critical, Severity: "critical"}, {Receiver: lab, Clusters: []string{"lab"}}}}}, func(n *Notifier) {
		n.Problem(problem("dcs", "lag", "warning"))
		after(time.Second)
		n.Problem(problem("", "reload_refused", "warning"))
		after(time.Second)
		n.Problem(problem("dcs", "lag", "critical"))
		after(time.Second)
		n.Problem(problem("dcs", "lag", "warning")) // better, and still wrong: over for who wants critical ones only
		after(time.Second)
		if got, want := all.took(), "WARNING: dcs: lag is wrong | WARNING: requorum: reload_refused is wrong | CRITICAL: dcs: lag is wrong"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		if got, want := critical.took(), "CRITICAL: dcs: lag is wrong | RECOVERED: dcs: lag is wrong"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		if got, want := lab.took(), "WARNING: requorum: reload_refused is wrong"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

// A receiver that is down for hours is tried a bounded number of times, and then told what holds.
func TestOutageOfAReceiver(t *testing.T) {
	f, other := &fake{err: &Error{What: "down"}}, &fake{}
	sent := map[bool]int{}
	var mu sync.Mutex
	o := Options{Audience: Audience{Targets: []Target{{Receiver: f}, {Receiver: other}}}, Sent: func(_ string, ok bool) {
		mu.Lock()
		defer mu.Unlock()
		sent[ok]++
	}}
	run(t, o, func(n *Notifier) {
		n.Problem(problem("dcs", "rpo", "critical"))
		after(50 * time.Second)
		if tries := f.tried(); tries != attempts || other.took() == "" {
			t.Errorf("tried %d times within a minute, want %d; the other target must not wait", tries, attempts)
		}
		n.Over("dcs", "rpo")
		n.Problem(problem("dcs", "quorum", "critical"))
		after(4 * time.Hour)
		if tries := f.tried(); tries == 0 || tries > 12*attempts {
			t.Errorf("tried %d times within hours", tries)
		}
		f.refuse(nil)
		after(time.Hour)
		if got, want := f.took(), "CRITICAL: dcs: quorum is wrong"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		mu.Lock()
		if sent[false] == 0 || sent[true] < 2 {
			t.Errorf("counted %v", sent)
		}
		mu.Unlock()
		f.refuse(&Error{What: "gone", Permanent: true})
		f.tried()
		n.Over("dcs", "quorum")
		after(30 * time.Second)
		if tries := f.tried(); tries != 1 {
			t.Errorf("what is refused for good was tried %d times", tries)
		}
	})
}

func TestReceiversAskedWaitIsKept(t *testing.T) {
	f := &fake{err: &Error{What: "slow down", Wait: 40 * time.Second}}
	run(t, Options{Audience: Audience{Targets: []Target{{Receiver: f}}}}, func(n *Notifier) {
		n.Problem(problem("dcs", "rpo", "critical"))
		after(39 * time.Second)
		if tries := f.tried(); tries != 1 {
			t.Errorf("tried %d times within the wait that was asked for", tries)
		}
		after(2 * time.Second)
		if tries := f.tried(); tries != 1 {
			t.Errorf("tried %d times after it", tries)
		}
	})
}

// Another replica takes over: what stands is its to tell, and nothing is called recovered that is not.
func TestForget(t *testing.T) {
	f := &fake{}
	run(t, Options{Audience: Audience{Targets: []Target{{Receiver: f}}, Repeat: time.Hour}}, func(n *Notifier) {
		n.Problem(problem("dcs", "rpo", "critical"))
		n.Problem(problem("lab", "rpo", "critical"))
		after(time.Second)
		f.took()
		n.Forget("dcs")
		after(2*time.Hour - time.Minute)
		if got, want := f.took(), "CRITICAL: lab: rpo is wrong"; got != want {
			t.Errorf("told %q, want %q", got, want)
		}
		n.Problem(problem("dcs", "rpo", "critical"))
		after(time.Second)
		if got, want := f.took(), "CRITICAL: dcs: rpo is wrong"; got != want {
			t.Errorf("told %q when the cluster came back, want %q", got, want)
		}
	})
}

func TestLastWords(t *testing.T) {
	f := &fake{}
	run(t, Options{Audience: Audience{Targets: []Target{{Receiver: f}}, Wait: time.Hour}}, func(n *Notifier) {
		n.Problem(problem("dcs", "rpo", "critical"))
		after(time.Second)
	})
	if got, want := f.took(), "CRITICAL: dcs: rpo is wrong"; got != want {
		t.Errorf("when it ended it told %q, want %q", got, want)
	}
}

func TestHeartbeats(t *testing.T) {
	dcs, lab := &fake{err: errors.New("down")}, &fake{}
	run(t, Options{Audience: Audience{Heartbeats: []Heartbeat{{Cluster: "dcs", Receiver: dcs}, {Cluster: "lab", Receiver: lab}}}}, func(n *Notifier) {
		n.Beat("dcs")
		n.Beat("nobody")
		after(time.Second)
		if d, l := dcs.tried(), lab.tried(); d != 1 || l != 0 {
			t.Errorf("dcs was called %d times, lab %d times", d, l)
		}
		dcs.refuse(nil)
		after(10 * time.Second)
		if n := len(dcs.all()); n != 1 {
			t.Errorf("a heartbeat that failed was called with success %d times", n)
		}
	})
}

// A reload changes whom to tell while problems stand: who was told is not told again, who is new is told what stands, and who is gone hears nothing
// more than what was waiting for him.
func TestReplace(t *testing.T) {
	kept, gone, fresh, oldBeat, newBeat := &fake{}, &fake{}, &fake{}, &fake{}, &fake{}
	before := Audience{Targets: []Target{{Receiver: gone}, {Receiver: kept}}, Heartbeats: []Heartbeat{{Cluster: "dcs", Receiver: oldBeat}}, Wait: 10 * time.Second}
	run(t, Options{Audience: before}, func(n *Notifier) {
		n.Problem(problem("dcs", "rpo", "critical"))
		after(time.Minute)
		kept.took()
		gone.took()
		n.Problem(problem("lab", "lag", "warning"))
		after(time.Second)
		n.Replace(Audience{Targets: []Target{{Receiver: kept}, {Receiver: fresh}}, Heartbeats: []Heartbeat{{Cluster: "dcs", Receiver: newBeat}}, Repeat: time.Hour})
		after(time.Minute)
		n.Beat("dcs")
		n.Over("dcs", "rpo")
		after(time.Second)
		n.Over("lab", "lag")
		after(time.Second)
		for who, c := range map[string]struct {
			f    *fake
			want string
		}{
			"who stays": {kept, "WARNING: lab: lag is wrong | RECOVERED: dcs: rpo is wrong | RECOVERED: lab: lag is wrong"},
			"who comes": {fresh, "CRITICAL: 2 problems: dcs, lab | RECOVERED: dcs: rpo is wrong | RECOVERED: lab: lag is wrong"},
			"who goes":  {gone, "WARNING: lab: lag is wrong"},
		} {
			if got := c.f.took(); got != c.want {
				t.Errorf("%s was told %q, want %q", who, got, c.want)
			}
		}
		if o, w := oldBeat.tried(), newBeat.tried(); o != 0 || w != 1 {
			t.Errorf("the old heartbeat was called %d times, the new one %d times", o, w)
		}
		n.Problem(problem("dcs", "quorum", "critical"))
		after(90 * time.Minute)
		if got := kept.all(); len(got) != 2 || !got[1].Problems[0].Reminder {
			t.Errorf("with the new time for reminders: %+v", got)
		}
	})
}

// News is told once, to whoever wants to hear of more than what is critical, and waits for a receiver that is out.
func TestNews(t *testing.T) {
	all, critical, other := &fake{}, &fake{}, &fake{}
	run(t, Options{Audience: Audience{Repeat: time.Hour, Targets: []Target{
		{Name: "all", Receiver: all}, {Name: "critical", Receiver: critical, Severity: "critical"}, {Name: "other", Receiver: other, Clusters: []string{"b"}}}}}, func(n *Notifier) {
		all.refuse(&Error{What: "it is out", Permanent: true})
		n.News(News{Cluster: "a", Name: "drill", What: "drill d1 proved a restore", Time: time.Now()})
		after(time.Second)
		all.refuse(nil)
		after(3 * time.Hour)
		if got := all.took(); got != "OK: a: drill d1 proved a restore" {
			t.Errorf("told %q", got)
		}
		n.Problem(problem("a", "quorum", "critical"))
		n.News(News{Cluster: "b", Name: "drill", What: "drill d2 proved a restore", Time: time.Now()})
		after(time.Minute)
		if got := other.took(); got != "OK: b: drill d2 proved a restore" {
			t.Errorf("told %q", got)
		}
		if got := critical.took(); strings.Contains(got, "OK") || !strings.Contains(got, "quorum") {
			t.Errorf("whoever wants what is critical is told %q", got)
		}
		texts := ""
		for _, m := range all.all() {
			texts += m.Text
		}
		if strings.Count(texts, "OK: b: drill d2 proved a restore") != 1 || !strings.Contains(texts, "quorum is wrong") {
			t.Errorf("told\n%s", texts)
		}
	})
}

func TestMessage(t *testing.T) {
	since := time.Date(2026, 11, 22, 5, 55, 0, 0, time.UTC)
	m := Message{Standing: 3,
		Problems:  []Told{{Problem: Problem{Cluster: "dcs", Severity: "critical", What: "no backup", Advice: "requorum backup dcs", Since: since}, Times: 3, Reminder: true}},
		Recovered: []Told{{Problem: Problem{Severity: "warning", What: "the configuration was refused"}, Seconds: 90}}}
	m.describe()
	want := []string{"CRITICAL: dcs: no backup (3 times) (since 2026-11-22 05:55 UTC)", "  try: requorum backup dcs", "RECOVERED after 1m30s: requorum: the configuration was refused", "2 problems told before still stand"}
	if got := strings.Split(strings.TrimSpace(m.Text), "\n"); !slices.Equal(got, want) {
		t.Errorf("text\n%s", m.Text)
	}
	one := Message{Problems: []Told{{Problem: Problem{Cluster: "dcs", Severity: "critical", What: "no member can be asked:\n  a: refused\n  b: refused"}}}}
	one.describe()
	if one.Summary != "CRITICAL: dcs: no member can be asked" || !strings.Contains(one.Text, "b: refused") {
		t.Errorf("%q: %q", one.Summary, one.Text)
	}
	if m.Status != "problem" || m.Summary != "CRITICAL: 1 problem, 1 recovered: dcs, requorum" {
		t.Errorf("%s: %s", m.Status, m.Summary)
	}
}
