package backup_test

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/file"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/repository"
	"github.com/requorum/requorum/storage/storagetest"
)

// everyStage are those of a Take that proves and copies.
var everyStage = []string{
	backup.StageChoose, backup.StageStream, backup.StageUpload, backup.StageCheck, backup.StageProve, backup.StageCommit, backup.StageCopy,
}

func proving(o *backup.TakeOptions) { o.Prove = true }

// How members fail, and which one is taken instead.
func TestMembers(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{})
	admin := servers.Client(t)
	etcdtest.MustFill(t, admin, etcdtest.FillOptions{Keys: 12000, ValueSize: 2000, Random: true})

	t.Run("stalled during the stream", func(t *testing.T) {
		b := newBed(t, servers)
		var proxies []*etcdtest.Proxy
		var endpoints []string
		for _, m := range servers.Members {
			p := etcdtest.NewProxy(t, m.Addr())
			proxies, endpoints = append(proxies, p), append(endpoints, "http://"+p.Addr())
		}
		b.client = b.dial(t, cluster.Options{Endpoints: endpoints})
		var stalled *etcdtest.Member
		hook := &pauseWhenStreaming{stages: &stages{}, pause: func() {
			var most int64
			for i, p := range proxies {
				if _, down := p.Bytes(); down > most {
					stalled, most = servers.Members[i], down
				}
			}
			stalled.Pause(t)
			t.Cleanup(func() { stalled.Resume(t) })
		}}
		r := b.take(t, func(o *backup.TakeOptions) { o.Idle, o.Progress = 5*time.Second, hook })
		stalled.Resume(t)
		if r.Member.Name == stalled.Name || len(r.Warnings) == 0 || !strings.Contains(strings.Join(r.Warnings, "\n"), "no bytes for 5s") {
			t.Errorf("taken from %s after %s stalled, warnings %q", r.Member.Name, stalled.Name, r.Warnings)
		}
		b.fetch(t, r.Manifest)
		b.noSpool(t)
		objects := 0
		for o, err := range b.stores[0].Store.List(t.Context(), "dcs/snapshots/", "") {
			if err != nil {
				t.Fatal(err)
			}
			objects++
			if !strings.Contains(o.Key, r.ID) {
				t.Errorf("%s is left of the upload that was given up", o.Key)
			}
		}
		if objects != 3 {
			t.Errorf("%d objects, want data, facts and manifest", objects)
		}
		servers.WaitHealthy(t)
	})

	t.Run("cut off during the stream", func(t *testing.T) {
		b := newBed(t, servers)
		first := firstChoice(t, b.client)
		var endpoints []string
		for _, m := range servers.Members {
			if m.ClientURL != first.Endpoint {
				endpoints = append(endpoints, m.ClientURL)
				continue
			}
			proxy := etcdtest.NewProxy(t, m.Addr())
			proxy.Set(etcdtest.Fault{CutDown: 8 << 20})
			endpoints = append(endpoints, "http://"+proxy.Addr())
		}
		b.client = b.dial(t, cluster.Options{Endpoints: endpoints})
		r := b.take(t)
		if r.Member.Name == first.Name {
			t.Errorf("taken from %s, whose stream is cut off", r.Member.Name)
		}
	})

	t.Run("one down, one learner, one with an alarm", func(t *testing.T) {
		learner := servers.AddLearner(t)
		b := newBed(t, servers)
		followers, leader := servers.Followers(t), servers.Leader(t)
		followers[0].Stop(t)
		defer func() { followers[0].Start(t); followers[0].WaitHealthy(t) }()
		servers.RaiseAlarm(t, followers[1], pb.AlarmType_NOSPACE)
		r := b.take(t, proving)
		if r.Member.Name != leader.Name {
			t.Errorf("taken from %s, want %s, the leader", r.Member.Name, leader.Name)
		}
		text := strings.Join(r.Warnings, "\n")
		for _, part := range []string{learner.Name, followers[0].ClientURL, followers[1].Name, "NOSPACE", "learner"} {
			if !strings.Contains(text, part) {
				t.Errorf("the warnings do not say %q: %s", part, text)
			}
		}
		if servers.Leader(t) != leader {
			return // elected in between: it may be the follower that is asked
		}
		if !strings.Contains(text, "no follower that could be asked") {
			t.Errorf("the warnings do not say that nobody could be asked: %s", text)
		}
		live := r.Proofs[3]
		if live.OK || !strings.Contains(live.Detail, "not comparable") {
			t.Errorf("proof without a follower: %+v", live)
		}
	})

	t.Run("all of them", func(t *testing.T) {
		b := newBed(t, servers)
		b.client = b.dial(t, cluster.Options{Endpoints: []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}, DialTimeout: time.Second})
		_, err := backup.Take(t.Context(), b.options())
		var none *cluster.Unusable
		if !errors.As(err, &none) || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "127.0.0.1:2") {
			t.Errorf("%v", err)
		}
		if runs := b.runs(t); len(runs) != 1 || runs[0].Outcome != "failed" || runs[0].Error == "" {
			t.Errorf("records %+v", runs)
		}
	})
}

func firstChoice(t *testing.T, c *cluster.Client) cluster.MemberStatus {
	t.Helper()
	all, err := c.Status(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	usable, _ := cluster.Choose(all)
	if len(usable) == 0 {
		t.Fatal("no member is usable")
	}
	return usable[0]
}

// pauseWhenStreaming calls pause once, when the first bytes of the stream have been spooled. When the stream has failed, the attempt
// learns first that the upload has failed, too.
type pauseWhenStreaming struct {
	*stages
	pause func()
	done  bool
}

func (p *pauseWhenStreaming) Advance(stage string, n int64) {
	if stage == backup.StageStream && !p.done {
		p.done = true
		p.pause()
	}
	p.stages.Advance(stage, n)
}

func (p *pauseWhenStreaming) Done(stage, detail string) {
	p.stages.Done(stage, detail)
	if stage != backup.StageStream || detail != "failed" {
		return
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && !p.has(backup.StageUpload); {
		time.Sleep(time.Millisecond)
	}
}

func TestTLSAndAuth(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{Members: 1, TLS: true})
	servers.EnableAuth(t, "rootpw", etcdtest.User{Name: "backup", Password: "pw", Root: true}, etcdtest.User{Name: "reader", Password: "pw", Read: []string{""}})
	b := newBed(t, servers)
	o := cluster.Options{Endpoints: servers.Endpoints(), TLS: servers.Certs.ClientTLS(servers.Certs.Client), Username: "reader", Password: "pw"}
	b.client = b.dial(t, o)
	_, err := backup.Take(t.Context(), b.options())
	if !errors.Is(err, cluster.ErrNeedsRoot) || !strings.Contains(err.Error(), "grant-role reader root") {
		t.Errorf("without the root role: %v", err)
	}
	b.empty(t)
	o.Username = "backup"
	b.client = b.dial(t, o)
	if r := b.take(t, proving); !r.AuthEnabled || r.AuthHash == "" {
		t.Errorf("the auth store in the manifest: %v %q", r.AuthEnabled, r.AuthHash)
	}
}

// What stores do, in a cluster of one that is large enough to be in the middle of.
func TestStores(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	etcdtest.MustFill(t, servers.Client(t), etcdtest.FillOptions{Keys: 12000, ValueSize: 2000, Random: true})

	t.Run("the first refuses", func(t *testing.T) {
		b := newBed(t, servers, storagetest.Break(memory.New(time.Now), storagetest.Faults{Put: func(string) error { return storagetest.ErrInjected }}), memory.New(time.Now))
		r, err := backup.Take(t.Context(), b.options())
		if !errors.Is(err, backup.ErrPartial) || len(r.Stores) != 1 || r.Stores[0] != "offsite" {
			t.Errorf("stores %q, %v; want offsite alone and ErrPartial", r.Stores, err)
		}
		if !strings.Contains(err.Error(), "requorum copy dcs --to") {
			t.Errorf("%q does not say what to do", err)
		}
		b.fetch(t, r.Manifest)
		if runs := b.runs(t); len(runs) != 1 || runs[0].Outcome != "partly" {
			t.Errorf("records %+v", runs)
		}
	})
	t.Run("the first is cut off half-way", func(t *testing.T) {
		first := memory.New(time.Now)
		b := newBed(t, servers, storagetest.CutOff(first, 5<<20, storagetest.ErrInjected), memory.New(time.Now))
		r, err := backup.Take(t.Context(), b.options())
		if !errors.Is(err, backup.ErrPartial) || len(r.Stores) != 1 || r.Stores[0] != "offsite" {
			t.Errorf("stores %q, %v; want offsite alone and ErrPartial", r.Stores, err)
		}
		for o, err := range first.List(t.Context(), "dcs/snapshots/", "") {
			t.Errorf("what was cut off is visible: %s, %v", o.Key, err)
		}
		b.fetch(t, r.Manifest)
	})
	t.Run("all refuse", func(t *testing.T) {
		b := newBed(t, servers, storagetest.Break(memory.New(time.Now), storagetest.Faults{Put: func(string) error { return storagetest.ErrInjected }}))
		_, err := backup.Take(t.Context(), b.options())
		if !errors.Is(err, repository.ErrNoStore) || !errors.Is(err, storagetest.ErrInjected) || !strings.Contains(err.Error(), "main") {
			t.Errorf("%v", err)
		}
		if strings.Contains(err.Error(), "snapshot from") {
			t.Errorf("%q blames the member", err)
		}
		b.empty(t)
	})
	t.Run("what is stored is not what was sent", func(t *testing.T) {
		flip := func(key string, r io.Reader) io.Reader {
			if !strings.Contains(key, "/db.zst") {
				return r
			}
			return &flipped{r: r, at: 3 << 20}
		}
		b := newBed(t, servers, storagetest.Break(memory.New(time.Now), storagetest.Faults{Down: flip}))
		_, err := backup.Take(t.Context(), b.options())
		if !errors.Is(err, backup.ErrVerify) {
			t.Errorf("%v, want ErrVerify", err)
		}
		b.empty(t)
	})
	t.Run("may not be read or deleted from", func(t *testing.T) {
		deny := func(string) error { return storage.ErrDenied }
		inner := memory.New(time.Now)
		b := newBed(t, servers, storagetest.Break(inner, storagetest.Faults{
			Delete: deny,
			Get: func(key string, _ int64) error {
				if strings.Contains(key, "/db.zst") || strings.Contains(key, "/facts") {
					return nil // memory confirms by reading back
				}
				return storage.ErrDenied
			},
		}))
		first, second := b.take(t), b.take(t)
		if first.Line != second.Line {
			t.Errorf("without the right to read, the second backup opened line %s beside %s", second.Line, first.Line)
		}
	})
	t.Run("slow", func(t *testing.T) {
		progress := &stages{}
		late := func(key string, r io.Reader) io.Reader { // takes nothing before the stream has ended
			for deadline := time.Now().Add(2 * time.Minute); strings.Contains(key, "/db.zst") && !progress.has(backup.StageStream); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Error("the stream waits for the store")
					break
				}
			}
			return r
		}
		b := newBed(t, servers, storagetest.Break(memory.New(time.Now), storagetest.Faults{Up: late}))
		b.fetch(t, b.take(t, func(o *backup.TakeOptions) { o.Progress = progress }).Manifest)
	})
	t.Run("the disk is full", func(t *testing.T) {
		small := t.TempDir()
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=140m", "tmpfs", small).CombinedOutput(); err != nil {
			t.Skipf("mount: %v: %s", err, out)
		}
		defer func() {
			if out, err := exec.Command("umount", small).CombinedOutput(); err != nil {
				t.Errorf("umount: %v: %s", err, out)
			}
		}()
		b := newBed(t, servers)
		b.spool = small
		_, err := backup.Take(t.Context(), b.options())
		if !errors.Is(err, backup.ErrSpool) || !strings.Contains(err.Error(), "tmpfs") {
			t.Errorf("tmpfs unasked: %v", err)
		}
		allowed := func(o *backup.TakeOptions) { o.Spool.AllowMemory = true }
		ballast := filepath.Join(small, "ballast")
		fill := func() {
			f, err := os.Create(ballast)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			_, _ = io.CopyN(f, zeros{}, 1<<30) // until the disk is full
		}
		_, err = backup.Take(t.Context(), b.options(allowed, func(o *backup.TakeOptions) {
			o.Progress = &pauseWhenStreaming{stages: &stages{}, pause: fill}
		}))
		if !errors.Is(err, backup.ErrSpool) || !strings.Contains(err.Error(), "full") {
			t.Errorf("full while streaming: %v", err)
		}
		_, err = backup.Take(t.Context(), b.options(allowed))
		if !errors.Is(err, backup.ErrSpool) || !strings.Contains(err.Error(), "free") {
			t.Errorf("full before: %v", err)
		}
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		b.empty(t)
		b.take(t, allowed)
	})
	t.Run("a restore is under way", func(t *testing.T) {
		b := newBed(t, servers)
		hold := catalog.Hold{Run: catalog.NewID(catalog.KindRun), Cluster: "dcs", Owner: "someone", Started: time.Now().UTC()}
		if err := b.repo.CreateHold(t.Context(), hold); err != nil {
			t.Fatal(err)
		}
		scheduled := func(o *backup.TakeOptions) { o.RefuseHeld = true }
		if _, err := backup.Take(t.Context(), b.options(scheduled)); !errors.Is(err, backup.ErrHeld) || !strings.Contains(err.Error(), hold.Run) || !strings.Contains(err.Error(), "requorum restore dcs --resume") {
			t.Errorf("scheduled: %v", err)
		}
		if r := b.take(t, scheduled, func(o *backup.TakeOptions) { o.Run = hold.Run }); len(r.Warnings) != 0 {
			t.Errorf("the restore's own backup warns: %q", r.Warnings)
		}
		if r := b.take(t); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], hold.Run) {
			t.Errorf("by hand: warnings %q", r.Warnings)
		}
	})
	t.Run("cancelled at each stage", func(t *testing.T) {
		for _, stage := range everyStage {
			t.Run(stage, func(t *testing.T) {
				b := newBed(t, servers, memory.New(time.Now), memory.New(time.Now))
				ctx, cancel := context.WithCancelCause(t.Context())
				stop := errors.New("the user stops it")
				_, err := backup.Take(ctx, b.options(proving, func(o *backup.TakeOptions) {
					o.Progress = &stages{onStart: func(s string) {
						if s == stage {
							cancel(stop)
						}
					}}
				}))
				if stage == backup.StageCopy {
					if !errors.Is(err, backup.ErrPartial) {
						t.Errorf("%v, want ErrPartial: the backup exists", err)
					}
					b.noSpool(t)
					return
				}
				if !errors.Is(err, stop) {
					t.Errorf("%v", err)
				}
				b.empty(t)
				if runs := b.runs(t); len(runs) != 1 || runs[0].Outcome != "cancelled" {
					t.Errorf("records %+v", runs)
				}
			})
		}
	})
	t.Run("killed at each stage", func(t *testing.T) {
		for _, stage := range everyStage {
			t.Run(stage, func(t *testing.T) { killAt(t, servers, stage) })
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// flipped flips one bit.
type flipped struct {
	r  io.Reader
	at int64
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if f.at >= 0 && f.at < int64(n) {
		p[f.at] ^= 1
	}
	f.at -= int64(n)
	return n, err
}

// Variables of a child that takes a backup and waits to be killed.
const (
	killEndpoint = "BACKUP_TEST_ENDPOINT"
	killStage    = "BACKUP_TEST_STAGE"
	killStore    = "BACKUP_TEST_STORE"
	killSpool    = "BACKUP_TEST_SPOOL"
)

// takeChild is the process that is killed: it says so when the stage has come, and then goes no further.
func takeChild() {
	stage := os.Getenv(killStage)
	if stage == "" {
		return
	}
	client, err := cluster.Dial(cluster.Options{Endpoints: []string{os.Getenv(killEndpoint)}, DialTimeout: time.Minute})
	fatal(err)
	stores := []repository.Named{}
	for _, name := range []string{"main", "offsite"} {
		s, err := file.New(file.Options{Dir: filepath.Join(os.Getenv(killStore), name)})
		fatal(err)
		stores = append(stores, repository.Named{Name: name, Store: s})
	}
	repo, err := repository.New(repository.Options{Cluster: "dcs", Stores: stores})
	fatal(err)
	_, err = backup.Take(context.Background(), backup.TakeOptions{
		Cluster: "dcs", Client: client, Repository: repo, Prove: true, Spool: backup.Spool{Dir: os.Getenv(killSpool)},
		Progress: &stages{onStart: func(s string) {
			if s == stage {
				_, _ = os.Stdout.WriteString("here")
				select {}
			}
		}},
	})
	fatal(err)
	os.Exit(0)
}

func fatal(err error) {
	if err != nil {
		_, _ = os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
}

func killAt(t *testing.T, servers *etcdtest.Cluster, stage string) {
	b := newBed(t, servers)
	dir := t.TempDir()
	b.stores = nil
	for _, name := range []string{"main", "offsite"} {
		s, err := file.New(file.Options{Dir: filepath.Join(dir, name)})
		if err != nil {
			t.Fatal(err)
		}
		b.stores = append(b.stores, repository.Named{Name: name, Store: s})
	}
	b.repo = b.repository(t, b.identity)
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), killStage+"="+stage, killEndpoint+"="+servers.Endpoints()[0], killStore+"="+dir, killSpool+"="+b.spool)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 4)
	if _, err := io.ReadFull(out, said); err != nil {
		t.Fatalf("the child never came to %q: %v %s", stage, err, stderr.String())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed

	snaps, err := b.repo.Snapshots(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if exists := stage == backup.StageCopy; len(snaps) != 0 != exists {
		t.Errorf("visible after the kill: %+v", snaps)
	}
	b.noSpool(t)

	// The rest is swept once it is old enough, and a whole backup is not.
	repo, err := repository.New(repository.Options{Cluster: "dcs", Stores: b.stores, SweepAfter: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(2 * time.Minute)
	for { // an upload's age is whole seconds in some file systems
		if _, err := backup.Expire(t.Context(), catalog.Policy{}, false, backup.ExpireOptions{Repository: repo}); err != nil {
			t.Fatal(err)
		}
		left, err := repo.Leftovers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		data := 0
		for _, s := range b.stores {
			for o, err := range s.Store.List(t.Context(), "dcs/snapshots/", "") {
				if err != nil {
					t.Fatal(err)
				}
				if len(snaps) == 0 || !strings.Contains(o.Key, snaps[0].ID) {
					data++
				}
			}
		}
		if len(left) == 0 && data == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("never swept: %+v", left)
		}
	}
	after, err := repo.Snapshots(t.Context())
	if err != nil || len(after) != len(snaps) {
		t.Errorf("backups after the sweep: %+v, %v; want %+v", after, err, snaps)
	}
}
