package schedules

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

// ElectorOptions say how replicas find each other.
type ElectorOptions struct {
	// Connect opens a client of the coordination etcd, for each lease anew. Dial keepalives should be on, or a dead connection goes
	// unnoticed for long. It must not take longer than half a lease.
	Connect func(ctx context.Context) (*clientv3.Client, error)
	Prefix  string        // of all keys, without a slash at its end
	ID      string        // of this replica, for people: host name and process
	Lease   time.Duration // how long a replica that is gone holds its clusters; whole seconds, at least MinLease
	Log     *slog.Logger
}

// Elector shares names - clusters - among replicas; see DESIGN.md.
type Elector struct {
	o ElectorOptions

	mu      sync.Mutex
	epoch   epoch
	changed chan struct{} // closed when epoch is another one
}

// An epoch is a time during which nothing changes for all names.
type epoch struct {
	session  *concurrency.Session // nil without a lease
	orphan   bool                 // the coordination etcd is gone
	replicas []string             // the keys of those present
	own      string               // this one's
}

// Term is a time of work for one name.
type Term struct {
	// Orphan says that there is no lease: others may work too.
	Orphan bool
	// Yield is closed when another is to take over: nothing more should be begun, and running work may end.
	Yield <-chan struct{}
}

// NewElector returns an elector. Nothing is asked before [Elector.Run].
func NewElector(o ElectorOptions) *Elector {
	return &Elector{o: o, changed: make(chan struct{})}
}

// Run holds a lease, and gets another when it is lost, until ctx ends. Then it gives the lease back, so that others take over at once.
func (e *Elector) Run(ctx context.Context) {
	lost := time.Now() // when there was a lease last
	for ctx.Err() == nil {
		err := e.hold(ctx, func() { lost = time.Now() })
		if ctx.Err() != nil {
			return
		}
		orphan := time.Since(lost) >= e.o.Lease
		if e.set(epoch{orphan: orphan}) {
			e.o.Log.Error("the coordination etcd cannot be used", "error", err, "orphan", orphan)
		}
		sleep(ctx, nil, min(time.Second, e.o.Lease/4))
	}
}

// hold gets a lease and keeps it until it is lost. held is called when it was.
func (e *Elector) hold(ctx context.Context, held func()) error {
	client, err := e.o.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer client.Close()
	grant, cancel := context.WithTimeout(ctx, e.o.Lease/2)
	lease, err := client.Grant(grant, int64(e.o.Lease.Seconds()))
	cancel()
	if err != nil {
		return fmt.Errorf("getting a lease: %w", err)
	}
	session, err := concurrency.NewSession(client, concurrency.WithLease(lease.ID), concurrency.WithTTL(int(e.o.Lease.Seconds())))
	if err != nil {
		return fmt.Errorf("keeping a lease: %w", err)
	}
	defer func() {
		held()
		e.set(epoch{})
		session.Orphan()
		revoke, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.o.Lease/4)
		defer cancel()
		_, _ = client.Revoke(revoke, lease.ID) // if that fails it expires
	}()
	inside, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-session.Done():
			cancel()
		case <-inside.Done():
		}
	}()
	return e.present(inside, session)
}

// present announces this replica and follows who else is there, while ctx lasts.
func (e *Elector) present(ctx context.Context, session *concurrency.Session) error {
	folder := e.o.Prefix + "/replicas/"
	client := session.Client()
	own := fmt.Sprintf("%s%016x", folder, session.Lease())
	if _, err := client.Put(ctx, own, e.o.ID, clientv3.WithLease(session.Lease())); err != nil {
		return fmt.Errorf("announcing this replica: %w", err)
	}
	for ctx.Err() == nil {
		now, err := client.Get(ctx, folder, clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return fmt.Errorf("looking for other replicas: %w", err)
		}
		var all []string
		for _, kv := range now.Kvs {
			all = append(all, string(kv.Key))
		}
		e.set(epoch{session: session, replicas: all, own: own})
		// Whatever changes, all is read again: replicas are few and their changes rare.
		watch, cancel := context.WithCancel(ctx)
		for r := range client.Watch(watch, folder, clientv3.WithPrefix(), clientv3.WithRev(now.Header.Revision+1)) {
			if len(r.Events) > 0 || r.Err() != nil {
				break
			}
		}
		cancel()
	}
	return errors.New("the lease is lost")
}

// set begins another epoch, and says whether it is one.
func (e *Elector) set(next epoch) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.epoch
	if now.session == next.session && now.orphan == next.orphan && strings.Join(now.replicas, " ") == strings.Join(next.replicas, " ") {
		return false
	}
	e.epoch = next
	close(e.changed)
	e.changed = make(chan struct{})
	return true
}

func (e *Elector) now() (epoch, <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.epoch, e.changed
}

// Connected says whether this replica holds a lease, and who is there.
func (e *Elector) Connected() (lease bool, replicas int) {
	now, _ := e.now()
	return now.session != nil, len(now.replicas)
}

// favours says whether this replica is the one to campaign for a name: a hash over name and replica, the highest wins.
func (p epoch) favours(name string) bool {
	best, highest := "", uint64(0)
	for _, r := range p.replicas {
		if h := weight(name, r); best == "" || h > highest {
			best, highest = r, h
		}
	}
	return best == p.own
}

func weight(name, replica string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(replica))
	h.Write([]byte{0})
	h.Write([]byte(name))
	// FNV's high bits hardly depend on the last bytes; mixed, every replica gets an even share.
	x := h.Sum64()
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	return x ^ x>>33
}

// Stagger is a delay below limit that differs between replicas and names, for the work of orphans.
func (e *Elector) Stagger(name string, limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	return time.Duration(weight(name, e.o.ID) % uint64(limit))
}

// Follow calls work whenever this replica is the one to work for the name, and as an orphan when that cannot be known, until
// ctx ends. The context of work ends with the lease that it was called under, or with ctx. Work may still be running after
// it was asked to yield, also beside work of a later term. Follow returns when all of it has.
func (e *Elector) Follow(ctx context.Context, name string, work func(ctx context.Context, t Term)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for ctx.Err() == nil {
		now, changed := e.now()
		switch {
		case now.orphan:
			yield := make(chan struct{})
			wg.Go(func() { work(ctx, Term{Orphan: true, Yield: yield}) })
			e.while(ctx, func(now epoch) bool { return now.orphan })
			close(yield)
		case now.session != nil && now.favours(name):
			e.lead(ctx, now.session, name, func(ctx context.Context, t Term, ended func()) {
				wg.Go(func() {
					defer ended()
					work(ctx, t)
				})
			})
		default:
			wait(ctx, changed)
		}
	}
}

func wait(ctx context.Context, changed <-chan struct{}) {
	select {
	case <-ctx.Done():
	case <-changed:
	}
}

// while returns when ctx has ended, or the condition does not hold any more.
func (e *Elector) while(ctx context.Context, holds func(epoch) bool) {
	for {
		now, changed := e.now()
		if ctx.Err() != nil || !holds(now) {
			return
		}
		wait(ctx, changed)
	}
}

// lead campaigns for the name while this replica is its favourite under the session, starts work when it is elected, and withdraws when
// it is not the favourite any more.
func (e *Elector) lead(ctx context.Context, session *concurrency.Session, name string, start func(ctx context.Context, t Term, ended func())) {
	mine := func(now epoch) bool { return now.session == session && now.favours(name) }
	// What is asked of the election outlasts ctx by the time of a lease: a key that stayed behind would keep all others from being elected for as long as the session
	// lives, and a request to put one that is cancelled may be carried out after the one that deletes it.
	asking, cancel := context.WithCancel(session.Ctx())
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		sleep(asking, nil, e.o.Lease)
		cancel()
	})()
	c := candidacy{client: session.Client(), lease: session.Lease(), id: e.o.ID, folder: e.o.Prefix + "/clusters/" + name + "/"}
	defer func() {
		if err := c.withdraw(asking); err != nil && session.Ctx().Err() == nil {
			e.o.Log.Warn("leadership could not be handed over; it ends with the lease", "cluster", name, "error", err)
		}
	}()

	waiting, leave := context.WithCancel(ctx)
	defer leave()
	go func() {
		e.while(waiting, mine)
		leave()
	}()
	if err := c.elected(waiting, asking); err != nil {
		if ctx.Err() == nil && waiting.Err() == nil {
			e.o.Log.Warn("the campaign failed", "cluster", name, "error", err)
			sleep(waiting, nil, time.Second)
		}
		return
	}
	leading, stop := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(session.Ctx(), func() { stop(ErrLeaseLost) })
	yield := make(chan struct{})
	start(leading, Term{Yield: yield}, func() {
		unhook()
		stop(nil)
	})
	<-waiting.Done()
	close(yield)
}

// ErrLeaseLost is why the context of a leader ended: another may lead by now.
var ErrLeaseLost = errors.New("the lease in the coordination etcd is lost: another replica takes over")

// MinLease is the shortest lease that etcd grants with its default settings.
const MinLease = 2 * time.Second
