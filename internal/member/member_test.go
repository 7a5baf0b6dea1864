package member

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

func TestMain(m *testing.M) {
	RunChild()
	os.Exit(m.Run())
}

func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func client(t testing.TB, p *Process) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{p.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestStart runs a server as the demo does: it serves, hashes, stops and starts again with its data.
func TestStart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd servers")
	}
	ctx := within(t, 3*time.Minute)
	o := Options{Name: "m1", DataDir: filepath.Join(t.TempDir(), "m1"), Tick: 10 * time.Millisecond, NoFsync: true}
	p, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Kill()
	put := etcdtest.Put(t, client(t, p), "k", "v")
	want, err := client(t, p).HashKV(ctx, p.Endpoint(), 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Hash(ctx, 0)
	if err != nil || got.Hash != want.Hash || got.Revision != put || got.CompactRevision != want.CompactRevision {
		t.Fatalf("Hash = %+v, %v; the client is told %v", got, err, want)
	}
	if _, err := p.Hash(ctx, 1<<40); err == nil || !strings.Contains(err.Error(), "future revision") {
		t.Errorf("hash at a future revision: %v", err)
	}
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if p.Err() != nil {
		t.Errorf("a stopped server has error %v", p.Err())
	}
	if _, err := p.Hash(ctx, 0); err == nil {
		t.Error("a stopped server answers")
	}
	again, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Kill()
	if rows := etcdtest.Rows(t, client(t, again)); len(rows) != 1 || rows[0].Key != "k" {
		t.Fatalf("after a restart, k is %v", rows)
	}
}

// TestLockThatPasses starts a server on files that somebody has locked for a moment still, as a fork in this very process can.
func TestLockThatPasses(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd servers")
	}
	ctx := within(t, 3*time.Minute)
	dir := t.TempDir()
	o := Options{DataDir: filepath.Join(dir, "a"), LogFile: filepath.Join(dir, "log"), Tick: 10 * time.Millisecond, NoFsync: true}
	p, err := Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(o.DataDir, "member", "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	lock, err := fileutil.LockFile(files[len(files)-1], os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	unlocked := make(chan bool)
	go func() {
		met := false
		for ctx.Err() == nil && !met {
			text, _ := os.ReadFile(o.LogFile)
			met = strings.Contains(string(text), "file already locked")
			time.Sleep(time.Millisecond)
		}
		lock.Close()
		unlocked <- met
	}()
	again, err := Start(ctx, o)
	if !<-unlocked {
		t.Error("the server never met the lock: the test shows nothing")
	}
	if err != nil {
		t.Fatal(err)
	}
	again.Kill()
}

// TestDeathIsNoticed kills a server from outside and starts one that cannot come up: both must be told with the log's end.
func TestDeathIsNoticed(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd servers")
	}
	ctx := within(t, 3*time.Minute)
	dir := t.TempDir()
	p, err := Start(ctx, Options{DataDir: filepath.Join(dir, "a"), Tick: 10 * time.Millisecond, NoFsync: true})
	if err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(p.PID())
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		t.Fatal("the death is not noticed")
	}
	if err := p.Err(); err == nil || !strings.Contains(err.Error(), "signal: killed") || !strings.Contains(err.Error(), `{"level":"info"`) {
		t.Errorf("Err() = %v, want the signal and the end of the log", err)
	}

	// A database that is none makes etcd panic.
	broken := filepath.Join(dir, "b")
	if err := os.MkdirAll(filepath.Join(broken, "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "member", "snap", "db"), []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(ctx, Options{DataDir: broken}); err == nil || !strings.Contains(err.Error(), "its log ends with") {
		t.Errorf("start on a broken database: %v", err)
	}
}

// TestCluster starts three members at once, kills one and goes on.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd servers")
	}
	ctx := within(t, 3*time.Minute)
	dir := t.TempDir()
	options := make([]Options, 3)
	var all []string
	for i := range options {
		peer := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t))
		name := fmt.Sprintf("m%d", i)
		options[i] = Options{Name: name, DataDir: filepath.Join(dir, name), ListenPeer: peer, Token: "t", NoFsync: true}
		all = append(all, name+"="+peer)
	}
	members := make([]*Process, len(options))
	g, starting := errgroup.WithContext(ctx)
	for i := range options {
		options[i].InitialCluster = strings.Join(all, ",")
		g.Go(func() (err error) {
			members[i], err = Start(starting, options[i])
			return err
		})
	}
	err := g.Wait()
	for _, m := range members {
		if m != nil {
			t.Cleanup(m.Kill)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	put := etcdtest.Put(t, client(t, members[0]), "k", "v")
	etcdtest.Revision(t, client(t, members[2])) // by a linearizable read: it has the key, too
	want, err := members[0].Hash(ctx, put)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := members[2].Hash(ctx, put); err != nil || got != want {
		t.Errorf("two members serve %+v and %+v, %v", want, got, err)
	}
	members[1].Kill()
	if members[1].Err() != nil {
		t.Errorf("a killed member has error %v", members[1].Err())
	}
	c := client(t, members[0])
	err = etcdtest.Retried(ctx, func() error { // the one that was killed may have been the leader
		_, err := c.Put(ctx, "k", "w")
		return err
	})
	if err != nil {
		t.Errorf("put with one of three members killed: %v", err)
	}
}

// TestServe runs a server in this process.
func TestServe(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd servers")
	}
	ctx, stop := context.WithCancel(within(t, 3*time.Minute))
	url := fmt.Sprintf("http://127.0.0.1:%d", etcdtest.FreePort(t))
	served := make(chan error, 1)
	go func() {
		served <- Serve(ctx, Options{Name: "s", DataDir: filepath.Join(t.TempDir(), "s"), ListenClient: url, Tick: 10 * time.Millisecond, NoFsync: true})
	}()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{url}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	etcdtest.Put(t, c, "k", "v")
	stop()
	if err := <-served; err != nil {
		t.Errorf("Serve = %v after its context ended, want nil", err)
	}
}
