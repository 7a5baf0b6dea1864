package ssh

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/restore"
)

func member(name, file string) restore.Member { return restore.Member{Name: name, DataDir: file} }

// database writes size bytes that do not repeat, and describes them.
func database(t *testing.T, size int) (*os.File, restore.StageRequest) {
	t.Helper()
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(content)
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	sum := restore.NewChecksum()
	_, _ = sum.Write(content)
	return f, restore.StageRequest{Member: member("etcd1", filepath.Join(t.TempDir(), "arrived")), Run: "r1", Size: int64(size), Checksum: hex.EncodeToString(sum.Sum(nil))}
}

func same(t *testing.T, db *os.File, path string) {
	t.Helper()
	want, err := os.ReadFile(db.Name())
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, got) {
		t.Fatalf("%d bytes arrived, not the %d that were sent", len(got), len(want))
	}
}

func TestRequests(t *testing.T) {
	c := newClient(t)
	s := startServer(t, c.key.PublicKey())
	c.knows(s)
	hosts, h := c.open(s.addr, nil)
	if err := h.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := s.left(); len(left) > 0 {
		t.Errorf("a check left %v", left)
	}
	state, err := h.Inspect(t.Context(), restore.InspectRequest{Member: member("etcd1", "")})
	if err != nil || state.Member != "etcd1" || state.Host != "other" || state.Dead {
		t.Fatalf("Inspect: %+v, %v", state, err)
	}
	if state, err = h.Inspect(t.Context(), restore.InspectRequest{Member: member("etcd1", ""), Run: "r1"}); err != nil || !state.Dead {
		t.Errorf("that the lock's owner is gone is known on this machine only, and was not added: %+v, %v", state, err)
	}

	apply := func(a restore.Action, run string) error {
		return h.Apply(t.Context(), restore.ApplyRequest{Action: a, Member: member("etcd1", ""), Run: run})
	}
	if err := apply(restore.ActLock, "r1"); err != nil {
		t.Errorf("a lock whose owner was a process of this machine that is gone was not taken: %v", err)
	}
	var locked *restore.HostError
	if err := apply(restore.ActLock, "r2"); !errors.As(err, &locked) || locked.Code != restore.HostLocked || !locked.Dead || locked.Lock == nil || locked.Lock.Run != "r1" {
		t.Errorf("the lock of another run: %v, not the host's own error with the lock", err)
	}
	if err := apply(restore.ActStart, "r1"); err == nil || !strings.Contains(err.Error(), "plainly wrong") || !strings.Contains(err.Error(), s.addr) {
		t.Errorf("an ordinary error came as %v", err)
	}

	db, stage := database(t, 5<<20+123)
	if err := h.Stage(t.Context(), stage, db); err != nil {
		t.Fatal(err)
	}
	same(t, db, stage.Member.DataDir)
	if !strings.Contains(c.said.String(), fmt.Sprintf("start stage etcd1 %d", stage.Size)) || !strings.Contains(c.said.String(), "done stage etcd1 on "+s.addr) {
		t.Errorf("the transfer was shown as\n%s", c.said)
	}
	if err := h.Stage(t.Context(), stage, io.MultiReader(db)); err != nil { // not a file, and complete already
		t.Error(err)
	}
	same(t, db, stage.Member.DataDir)
	for token, want := range map[string]string{"unwanted": "", "full": "no space left on device"} {
		again := stage
		again.Token = token
		if err := h.Stage(t.Context(), again, db); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", token, err)
		}
	}

	var got bytes.Buffer
	if err := h.Fetch(t.Context(), restore.FetchRequest{Member: stage.Member}, &got); err != nil || got.Len() != int(stage.Size) {
		t.Errorf("Fetch: %d bytes, %v", got.Len(), err)
	}
	if err := h.Fetch(t.Context(), restore.FetchRequest{Member: member("etcd1", "/nonexistent")}, io.Discard); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing database is %v, not fs.ErrNotExist", err)
	}

	if s.brought() != 1 {
		t.Errorf("the program was brought %d times", s.brought())
	}
	if err := hosts.Close(); err != nil {
		t.Error(err)
	}
	until(t, "the program to be removed", func() bool { return len(s.left()) == 0 })
}

// TestCancelled shows that the other side ends what it does when nobody waits for it any more, and that this side waits for that.
func TestCancelled(t *testing.T) {
	c := newClient(t)
	s := startServer(t, c.key.PublicKey())
	c.knows(s)
	_, h := c.open(s.addr, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	file := filepath.Join(t.TempDir(), "ended")
	go func() {
		for ctx.Err() == nil {
			if b, _ := os.ReadFile(file); string(b) == "began" {
				cancel(errors.New("changed my mind"))
			}
			time.Sleep(10 * time.Millisecond)
		}
	}()
	err := h.Apply(ctx, restore.ApplyRequest{Action: restore.ActStop, Member: member("etcd1", file), Run: "r1"})
	if err == nil || err.Error() != "changed my mind" {
		t.Errorf("it ended with %v", err)
	}
	until(t, "the other side to end", func() bool { b, _ := os.ReadFile(file); return string(b) == "ended" })
	if _, err := h.Inspect(t.Context(), restore.InspectRequest{Member: member("etcd1", "")}); err != nil {
		t.Errorf("the next request: %v", err)
	}
}

// TestTransferGoesOn cuts the connection in the middle of a transfer: it goes on where it stopped. What is not the beginning of the
// database is not gone on with.
func TestTransferGoesOn(t *testing.T) {
	c := newClient(t)
	s := startServer(t, c.key.PublicKey())
	proxy := etcdtest.NewProxy(t, s.addr)
	c.knows(&server{addr: proxy.Addr(), key: s.key})
	_, h := c.open(proxy.Addr(), nil)
	if _, err := h.Inspect(t.Context(), restore.InspectRequest{Member: member("etcd1", "")}); err != nil {
		t.Fatal(err)
	}
	db, stage := database(t, 24<<20)
	done := make(chan error, 1)
	up, _ := proxy.Bytes()
	proxy.Set(etcdtest.Fault{StallUp: up + 6<<20, UpRate: 16 << 20}) // it cannot come to its end before it is cut
	go func() { done <- h.Stage(t.Context(), stage, db) }()
	until(t, "a part of the database", func() bool {
		info, err := os.Stat(stage.Member.DataDir)
		return err == nil && info.Size() > 2<<20
	})
	proxy.Set(etcdtest.Fault{CutUp: 1})
	until(t, "the connection to break", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.conns) > 1 })
	proxy.Set(etcdtest.Fault{})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	same(t, db, stage.Member.DataDir)
	if !strings.Contains(c.said.String(), "stage etcd1 goes on after") || strings.Contains(c.said.String(), "goes on after 0 of") {
		t.Errorf("it did not go on where it stopped:\n%s", c.said)
	}

	for name, spoil := range map[string]func(content []byte) []byte{
		"another beginning": func(b []byte) []byte { b[5] ^= 1; return b[:3<<20] },
		"too much":          func(b []byte) []byte { return append(b, 0) },
		"an odd end":        func(b []byte) []byte { return b[:3<<20+17] },
		"nothing missing":   func(b []byte) []byte { return b },
	} {
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(db.Name())
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(stage.Member.DataDir, spoil(slices.Clone(b)), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := h.Stage(t.Context(), stage, db); err != nil {
				t.Fatal(err)
			}
			same(t, db, stage.Member.DataDir)
		})
	}
}

// TestLeftBehind shows what becomes of programs that killed coordinators left: this very one is used, others are swept.
func TestLeftBehind(t *testing.T) {
	c := newClient(t)
	s := startServer(t, c.key.PublicKey())
	c.knows(s)
	hosts, h := c.open(s.addr, nil)
	sum, err := hosts.programs[0].identify()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(s.dir, fmt.Sprintf("requorum-%d", os.Getuid()))
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Skip("no /proc here")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-2 * partAge)
	for name, content := range map[string][]byte{"requorum-" + sum[:16]: program, "requorum-0123456789abcdef": []byte("older"), "requorum-fedcba9876543210.part.77": []byte("half")} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, old, old); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Inspect(t.Context(), restore.InspectRequest{Member: member("etcd1", "")}); err != nil {
		t.Fatal(err)
	}
	if s.brought() != 0 {
		t.Error("the program was brought although it was there")
	}
	if left := s.left(); len(left) != 2 { // with the directory
		t.Errorf("there are %v", left)
	}

	// A second coordinator uses the same program, and the first that leaves lets it be.
	other, second := c.open(s.addr, nil)
	if _, err := second.Inspect(t.Context(), restore.InspectRequest{Member: member("etcd1", "")}); err != nil {
		t.Fatal(err)
	}
	if err := hosts.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := second.Inspect(t.Context(), restore.InspectRequest{Member: member("etcd1", "")}); err != nil || s.brought() != 0 {
		t.Errorf("after the other one left: %v, brought %d times", err, s.brought())
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the program to be removed", func() bool { return len(s.left()) == 0 })

	// One that arrives damaged is not run.
	third, h3 := c.open(s.addr, nil)
	if _, err := third.programs[0].identify(); err != nil {
		t.Fatal(err)
	}
	third.programs[0].sum = strings.Repeat("0", 64)
	if _, err := h3.Inspect(t.Context(), restore.InspectRequest{Member: member("etcd1", "")}); err == nil || !strings.Contains(err.Error(), "it arrived with sha256") {
		t.Errorf("a damaged program: %v", err)
	}
	if left := s.left(); len(left) > 1 {
		t.Errorf("a damaged program left %v", left)
	}
}

func TestOtherMachines(t *testing.T) {
	c := newClient(t)
	s := startServer(t, c.key.PublicKey())
	c.knows(s)
	bin := t.TempDir()
	uname := func(system, machine string) {
		script := fmt.Sprintf("#!/bin/sh\ncase $1 in -s) echo %s;; -m) echo %s;; esac\n", system, machine)
		if err := os.WriteFile(filepath.Join(bin, "uname"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.path = bin + ":" + s.path
	for _, test := range []struct{ system, machine, want string }{
		{"Linux", "riscv64", "linux/riscv64 and this requorum is for linux/amd64: get or build requorum test for linux/riscv64 (GOOS=linux GOARCH=riscv64), and name its file in ssh.binaries"},
		{"FreeBSD", "amd64", "members are restored on Linux"},
	} {
		uname(test.system, test.machine)
		_, h := c.open(s.addr, nil)
		for name, err := range map[string]error{"check": h.Check(t.Context()), "inspect": func() error {
			_, err := h.Inspect(t.Context(), restore.InspectRequest{})
			return err
		}()} {
			if err == nil || !strings.Contains(err.Error(), test.want) && os.Getenv("GOARCH") == "" {
				t.Errorf("%s of %s/%s: %v", name, test.system, test.machine, err)
			}
		}
	}
	if _, err := New(Options{Binaries: []string{c.file("text", "no program")}}); err == nil {
		t.Error("a text was taken for a program")
	}
	s.path = "/nonexistent"
	_, h := c.open(s.addr, nil)
	if err := h.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "look at host") {
		t.Errorf("a host without programs: %v", err)
	}
}

func TestOtherVersion(t *testing.T) {
	c := newClient(t)
	s := startServer(t, c.key.PublicKey())
	c.knows(s)
	_, h := c.open(s.addr, func(o *Options) { o.Version = "v2" })
	if _, err := h.Inspect(t.Context(), restore.InspectRequest{}); err == nil || !strings.Contains(err.Error(), "is requorum test, this one is v2") {
		t.Errorf("another version: %v", err)
	}
}

// TestUnreachable shows that a machine that was never reached is an error at once.
func TestUnreachable(t *testing.T) {
	c := newClient(t)
	addr := fmt.Sprintf("127.0.0.1:%d", etcdtest.FreePort(t))
	_, h := c.open(addr, nil)
	var lost *LostError
	if _, err := h.Inspect(t.Context(), restore.InspectRequest{}); !errors.As(err, &lost) || !strings.Contains(err.Error(), "ssh://tester@"+addr) {
		t.Errorf("nobody listens: %v", err)
	}
}
