package restore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/leased"
	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/member"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/restore/local"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/file"
	"github.com/requorum/requorum/storage/repository"
)

func TestMain(m *testing.M) {
	dbfile.RunChild()
	member.RunChild()
	runCommand()
	os.Exit(m.Run())
}

// A setup is all that a restore needs, in a form that a child process can be given.
type setup struct {
	Members            []restore.Member
	Store, Spool       string
	Username, Password string
	Leased             string          // prefix of a leased agent that expects one key
	KillAt             string          // see hooks
	Verb               string          // restore or rollback
	Options            restore.Options `json:"-"`
}

// hooks end this process, with SIGKILL, at a named point: "before:ACTION:N" or "after:ACTION:N", of the N-th such request to any
// host, or "done:STAGE".
type hooks struct {
	restore.Host
	point string
	mu    *sync.Mutex
	count map[string]int
	meet  func(point string) // instead of the end
}

func (h *hooks) at(point string) {
	switch {
	case h.meet != nil:
		h.meet(point)
	case h.point == point:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (h *hooks) next(action string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count[action]++
	return fmt.Sprintf("%s:%d", action, h.count[action])
}

func (h *hooks) Apply(ctx context.Context, req restore.ApplyRequest) error {
	n := h.next(string(req.Action))
	h.at("before:" + n)
	err := h.Host.Apply(ctx, req)
	h.at("after:" + n)
	return err
}

func (h *hooks) Stage(ctx context.Context, req restore.StageRequest, db io.Reader) error {
	n := h.next("stage")
	h.at("before:" + n)
	err := h.Host.Stage(ctx, req, db)
	h.at("after:" + n)
	return err
}

type reporter struct {
	h   *hooks
	say func(string)
}

func (reporter) Start(string, int64)   {}
func (reporter) Advance(string, int64) {}
func (r reporter) Done(stage, detail string) {
	r.say("done " + stage + " " + detail)
	r.h.at("done:" + stage)
}
func (r reporter) Say(format string, args ...any) { r.say(fmt.Sprintf(format, args...)) }

func (s setup) repository() (*repository.Repository, error) {
	store, err := file.New(file.Options{Dir: s.Store})
	if err != nil {
		return nil, err
	}
	return repository.New(repository.Options{Cluster: "dcs", Stores: []repository.Named{{Name: "main", Store: store}}})
}

// options completes the setup's options.
func (s setup) options(meet func(string), say func(string)) (restore.Options, error) {
	o := s.Options
	repo, err := s.repository()
	if err != nil {
		return o, err
	}
	if say == nil {
		say = func(string) {}
	}
	host := &hooks{Host: local.New(local.Options{}), point: s.KillAt, mu: &sync.Mutex{}, count: map[string]int{}, meet: meet}
	o.Cluster, o.SpoolDir, o.Command, o.Version = "dcs", s.Spool, "requorum", "test"
	o.Repository, o.Owner = repo, local.Owner(catalog.NewID('r'))
	o.Progress = reporter{host, say}
	o.Log = slog.New(slog.NewTextHandler(writer(say), nil))
	o.Credentials = restore.Credentials{Username: s.Username, Password: s.Password}
	if o.Connect == nil {
		o.Connect = func(endpoints []string) (*cluster.Client, error) {
			return cluster.Dial(cluster.Options{Endpoints: endpoints, Username: s.Username, Password: s.Password, DialTimeout: 2 * time.Second})
		}
	}
	o.Predict = func(ctx context.Context, db string, rev int64) (dbfile.HashKV, error) {
		return predict(ctx, s.Spool, db, rev)
	}
	o.Replay = member.Replay
	if s.Leased != "" {
		a, err := leased.New(leased.Options{Prefix: s.Leased, Count: 1})
		if err != nil {
			return o, err
		}
		o.Agents = []agents.Configured{{Name: "leased " + s.Leased, Kind: "leased", Agent: a}}
	}
	for _, m := range s.Members {
		o.Members = append(o.Members, restore.Placed{Member: m, On: host})
	}
	return o, nil
}

type writer func(string)

func (w writer) Write(p []byte) (int, error) { w(strings.TrimSpace(string(p))); return len(p), nil }

func predict(ctx context.Context, spool, db string, rev int64) (dbfile.HashKV, error) {
	dir, err := os.MkdirTemp(spool, "predict-")
	if err != nil {
		return dbfile.HashKV{}, err
	}
	defer os.RemoveAll(dir)
	f, err := os.Open(db)
	if err != nil {
		return dbfile.HashKV{}, err
	}
	defer f.Close()
	data := filepath.Join(dir, "data")
	if err := dbfile.StageAlone(ctx, data, f); err != nil {
		return dbfile.HashKV{}, err
	}
	s, err := member.HashOf(ctx, data, rev)
	return dbfile.HashKV(s.Hash), err
}

const setupVariable = "REQUORUM_RESTORE_TEST"

// runCommand is a command in a process of its own, if the environment says so: what a person runs, and what can be killed.
func runCommand() {
	text := os.Getenv(setupVariable)
	if text == "" {
		return
	}
	os.Exit(func() int {
		var s setup
		if err := json.Unmarshal([]byte(text), &s); err != nil {
			fmt.Println(err)
			return 1
		}
		s.Options.DiscardWrites = true
		s.Options.ReplaceHealthy = "dcs"
		o, err := s.options(nil, func(line string) { fmt.Println(line) })
		if err != nil {
			fmt.Println(err)
			return 1
		}
		r, err := restore.New(o)
		if err != nil {
			fmt.Println(err)
			return 1
		}
		if s.Verb == "rollback" {
			_, err = r.Rollback(context.Background(), "")
		} else {
			_, err = r.Run(context.Background())
		}
		if err != nil {
			fmt.Println(err)
			return 1
		}
		return 0
	}())
}

// A bed is a cluster with a repository and all that a restore of it needs.
type bed struct {
	*etcdtest.Cluster
	setup
	t *testing.T
}

func newBed(t *testing.T, o etcdtest.Options) *bed {
	t.Helper()
	b := &bed{Cluster: etcdtest.StartCluster(t, o), t: t}
	b.Store, b.Spool = filepath.Join(t.TempDir(), "store"), filepath.Join(t.TempDir(), "spool")
	for _, m := range b.Members() {
		c := m.Commands(t)
		b.setup.Members = append(b.setup.Members, restore.Member{Name: m.Name, Host: "local", PeerURL: m.PeerURL, ClientURL: m.ClientURL,
			DataDir: m.DataDir, Service: restore.Service{Start: c.Start, Stop: c.Stop, Status: c.Status, Inhibit: c.Inhibit, Allow: c.Allow}})
	}
	return b
}

// Members are the servers.
func (b *bed) Members() []*etcdtest.Member { return b.Cluster.Members }

// backup takes a backup now.
func (b *bed) backup() backup.Result {
	b.t.Helper()
	repo, err := b.repository()
	if err != nil {
		b.t.Fatal(err)
	}
	o := cluster.Options{Endpoints: b.Endpoints(), Username: b.Username, Password: b.Password, DialTimeout: 30 * time.Second}
	if b.Certs != nil {
		o.TLS = b.Certs.ClientTLS(b.Certs.Client)
	}
	c, err := cluster.Dial(o)
	if err != nil {
		b.t.Fatal(err)
	}
	defer c.Close()
	for deadline := time.Now().Add(2 * time.Minute); ; {
		r, err := backup.Take(b.t.Context(), backup.TakeOptions{Cluster: "dcs", Client: c, Repository: repo,
			Spool: backup.Spool{Dir: b.Spool}, Version: "test", Host: "here", User: "tester"})
		if err == nil {
			return r
		}
		// A cluster in the middle of an election is not backed up.
		if !errors.As(err, new(*cluster.Unusable)) && !errors.Is(err, cluster.ErrNoLeader) || time.Now().After(deadline) {
			b.t.Fatal(err)
		}
	}
}

// restorer makes one in this process. meet is called at every point of hooks.
func (b *bed) restorer(meet func(point string), change ...func(*restore.Options)) *restore.Restorer {
	b.t.Helper()
	s := b.setup
	for _, c := range change {
		c(&s.Options)
	}
	if meet == nil {
		meet = func(string) {}
	}
	o, err := s.options(meet, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	r, err := restore.New(o)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// run restores, and fails the test unless that succeeds.
func (b *bed) run(change ...func(*restore.Options)) restore.Report {
	b.t.Helper()
	report, err := b.restorer(nil, change...).Run(b.t.Context())
	if err != nil {
		b.t.Fatalf("restore: %v", err)
	}
	return report
}

// process runs a verb in a process of its own, which is killed at the point; killed says whether it got there.
func (b *bed) process(verb, point string) (output string, killed bool, err error) {
	b.t.Helper()
	s := b.setup
	s.Verb, s.KillAt = verb, point
	text, err := json.Marshal(s)
	if err != nil {
		b.t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(b.t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), setupVariable+"="+string(text))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if ctx.Err() != nil {
		b.t.Fatalf("%s that was to be killed at %q has not ended:\n%s", verb, point, out.String())
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
		return out.String(), true, nil
	}
	return out.String(), false, err
}

// rows reads all keys but those that proofs leave behind, until their leases end, when the answer to a request got lost.
func (b *bed) rows() []etcdtest.Row {
	b.t.Helper()
	return etcdtest.WithoutPrefix(etcdtest.Rows(b.t, b.Client(b.t)), "requorum/probe/")
}

func unleased(rows []etcdtest.Row) []etcdtest.Row {
	return slices.DeleteFunc(slices.Clone(rows), func(r etcdtest.Row) bool { return r.Lease != 0 })
}

// fill writes keys, some of them again, some deleted, and one under a lease.
func (b *bed) fill(keys int) *clientv3.Client {
	b.t.Helper()
	c := b.Client(b.t)
	etcdtest.MustFill(b.t, c, etcdtest.FillOptions{Prefix: "/data/", Keys: keys})
	for i := range 5 {
		etcdtest.Put(b.t, c, fmt.Sprintf("/data/%08d", i), "again")
	}
	etcdtest.Delete(b.t, c, "/data/00000006")
	etcdtest.Lease(b.t, c, 10*time.Minute, "/app/leader", "/app/members/a")
	return c
}

// places returns where every member stands.
func (b *bed) places(run string) map[string]restore.State {
	b.t.Helper()
	states := map[string]restore.State{}
	for _, m := range b.setup.Members {
		s, err := local.New(local.Options{}).Inspect(b.t.Context(), restore.InspectRequest{Member: m, Run: run, Verify: true})
		if err != nil {
			b.t.Fatal(err)
		}
		states[m.Name] = s
	}
	return states
}

func overHealthy(o *restore.Options) { o.ReplaceHealthy = "dcs" }
