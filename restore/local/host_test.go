//go:build linux

package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/requorum/requorum/restore"
)

// A rig is one member without a server: its status command says so.
type rig struct {
	t      *testing.T
	h      *Host
	member restore.Member
	owner  restore.Owner
	run    string
}

func newRig(t *testing.T, dir string) *rig {
	t.Helper()
	r := &rig{t: t, h: New(Options{}), owner: Owner("token"), run: "r00000000000"}
	r.member = restore.Member{Name: "etcd1", Host: "local", PeerURL: "http://127.0.0.1:2", ClientURL: "http://127.0.0.1:1", DataDir: filepath.Join(dir, "data"),
		Service: restore.Service{Start: "touch " + dir + "/started", Stop: "true", Status: "false"}}
	return r
}

// old makes a data dir as etcd would.
func (r *rig) old() {
	r.t.Helper()
	snap := filepath.Join(r.member.DataDir, "member", "snap")
	wal := r.member.WALDir
	if wal == "" {
		wal = filepath.Join(r.member.DataDir, "member", "wal")
	}
	for _, dir := range []string{snap, wal} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			r.t.Fatal(err)
		}
	}
	for path, content := range map[string]string{filepath.Join(snap, "db"): "old database", filepath.Join(wal, "0.wal"): "old wal"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) apply(a restore.Action) error {
	r.t.Helper()
	plan := restore.Plan{Format: restore.PlanFormat, Run: r.run, Kind: restore.PlanRestore, Started: time0}
	return r.h.Apply(r.t.Context(), restore.ApplyRequest{Action: a, Member: r.member, Run: r.run, Owner: r.owner, Plan: &plan})
}

func (r *rig) must(actions ...restore.Action) {
	r.t.Helper()
	for _, a := range actions {
		if err := r.apply(a); err != nil {
			r.t.Fatalf("%s: %v", a, err)
		}
	}
}

// newDatabase is a database that holds nothing but what a prepared one has: where its raft log begins.
var newDatabase = sync.OnceValue(func() []byte {
	dir, err := os.MkdirTemp("", "database-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoFreelistSync: true})
	if err != nil {
		panic(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket([]byte("meta"))
		if err != nil {
			return err
		}
		one := binary.BigEndian.AppendUint64(nil, 1)
		return errors.Join(meta.Put([]byte("consistent_index"), one), meta.Put([]byte("term"), one))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		panic(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return content
})

// stage stages the new database, as it comes through wrap.
func (r *rig) stage(wrap func(io.Reader) io.Reader) error {
	return r.h.Stage(r.t.Context(), r.stageRequest(), wrap(bytes.NewReader(newDatabase())))
}

func (r *rig) stageRequest() restore.StageRequest {
	sum := restore.NewChecksum()
	_, _ = sum.Write(newDatabase())
	return restore.StageRequest{Member: r.member, Run: r.run, Owner: r.owner, Token: "token",
		InitialCluster: map[string][]string{"etcd1": {"http://127.0.0.1:2"}}, Size: int64(len(newDatabase())), Checksum: hex.EncodeToString(sum.Sum(nil))}
}

func plain(r io.Reader) io.Reader { return r }

func (r *rig) state() restore.State {
	r.t.Helper()
	s, err := r.h.Inspect(r.t.Context(), restore.InspectRequest{Member: r.member, Run: r.run, Verify: true})
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) db() string {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.member.DataDir, "member", "snap", "db"))
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		r.t.Fatal(err)
	}
	if bytes.Equal(b, newDatabase()) {
		return "new database"
	}
	return string(b)
}

// wal is what the member's WAL dir holds: old, new or nothing.
func (r *rig) wal() string {
	r.t.Helper()
	dir := r.member.WALDir
	if dir == "" {
		dir = filepath.Join(r.member.DataDir, "member", "wal")
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() == "0.wal" {
			return "old"
		}
	}
	return "new"
}

// Whatever the layout of a member's dirs, they are exchanged and put back as a whole, and every request may come twice.
func TestEveryLayout(t *testing.T) {
	layouts := map[string]func(t *testing.T) *rig{
		"plain": func(t *testing.T) *rig {
			r := newRig(t, t.TempDir())
			r.old()
			return r
		},
		"nothing there": func(t *testing.T) *rig { return newRig(t, t.TempDir()) },
		"wal apart": func(t *testing.T) *rig {
			r := newRig(t, t.TempDir())
			r.member.WALDir = filepath.Join(t.TempDir(), "wal")
			r.old()
			return r
		},
		"wal in the data dir": func(t *testing.T) *rig {
			r := newRig(t, t.TempDir())
			r.member.WALDir = filepath.Join(r.member.DataDir, "log")
			r.old()
			return r
		},
		"symbolic link": func(t *testing.T) *rig {
			r := newRig(t, t.TempDir())
			target := filepath.Join(t.TempDir(), "real")
			if err := os.Mkdir(target, 0o750); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, r.member.DataDir); err != nil {
				t.Fatal(err)
			}
			r.old()
			return r
		},
		"mount point": func(t *testing.T) *rig {
			if os.Geteuid() != 0 {
				t.Skip("mounts a file system: needs root")
			}
			r := newRig(t, t.TempDir())
			if err := os.Mkdir(r.member.DataDir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Mount("tmpfs", r.member.DataDir, "tmpfs", 0, "size=300m"); err != nil {
				t.Skipf("mount: %v", err)
			}
			t.Cleanup(func() {
				if err := syscall.Unmount(r.member.DataDir, syscall.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
			r.old()
			return r
		},
	}
	for name, layout := range layouts {
		t.Run(name, func(t *testing.T) {
			r := layout(t)
			old, oldWAL := r.db(), r.wal()
			expect := func(what string, place restore.Place, db, wal string) {
				t.Helper()
				if s := r.state(); s.Place != place || r.db() != db || r.wal() != wal {
					t.Fatalf("%s: place %s %s, database %q, wal %q", what, s.Place, s.Detail, r.db(), r.wal())
				}
			}
			r.must(restore.ActLock, restore.ActLock)
			if err := r.stage(plain); err != nil {
				t.Fatal(err)
			}
			expect("staged", restore.PlaceOld, old, oldWAL)
			if s := r.state(); !s.Intact || s.Staged == "" {
				t.Fatalf("staged %q, intact %v: %s", s.Staged, s.Intact, s.Detail)
			}
			if err := r.apply(restore.ActExchange); err == nil {
				t.Fatal("exchanged although starts are not forbidden")
			}
			r.must(restore.ActInhibit, restore.ActInhibit, restore.ActStop, restore.ActExchange, restore.ActExchange)
			expect("exchanged", restore.PlaceNew, "new database", "new")
			if s := r.state(); !s.Intact || s.Opened() {
				t.Errorf("exchanged: intact %v: %s", s.Intact, s.Detail)
			}
			if err := r.apply(restore.ActDiscard); err == nil {
				t.Error("discarded what is in place")
			}
			r.must(restore.ActRevert, restore.ActRevert)
			expect("reverted", restore.PlaceOld, old, oldWAL)
			r.must(restore.ActExchange)
			expect("exchanged again", restore.PlaceNew, "new database", "new")
			if err := r.apply(restore.ActStart); err == nil {
				t.Error("started although starts are forbidden")
			}
			if old != "" {
				var kept bytes.Buffer
				if err := r.h.Fetch(t.Context(), restore.FetchRequest{Member: r.member, Before: r.run}, &kept); err != nil || kept.String() != old {
					t.Errorf("the old database is %q, %v", kept.String(), err)
				}
			}
			r.must(restore.ActAllow, restore.ActStart)
			if s := r.state(); !s.Opened() {
				t.Error("started, but not journaled as such")
			}
			r.must(restore.ActUnlock)
			if err := r.apply(restore.ActStop); err == nil {
				t.Error("stopped by a run that has ended")
			}
			r.must(restore.ActPrune)
			if s := r.state(); s.Before != "" {
				t.Errorf("%s was not pruned", s.Before)
			}
			expect("pruned", restore.PlaceNew, "new database", "new")
		})
	}
}

// A transfer that does not arrive whole leaves nothing staged, and what is staged is found out when it was changed.
func TestStageIsWholeOrNothing(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.old()
	r.must(restore.ActLock)
	other := bytes.Clone(newDatabase())
	other[len(other)-1]++ // in a page that nothing refers to
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"cut off":       func(in io.Reader) io.Reader { return io.LimitReader(in, 5) },
		"cut off later": func(in io.Reader) io.Reader { return io.LimitReader(in, int64(len(other))/2+5) },
		"other data":    func(io.Reader) io.Reader { return bytes.NewReader(other) },
		"no database":   func(io.Reader) io.Reader { return bytes.NewReader(make([]byte, len(other))) },
		"broken":        func(in io.Reader) io.Reader { return io.MultiReader(io.LimitReader(in, 5), failing{}) },
	} {
		if err := r.stage(wrap); err == nil {
			t.Errorf("%s: staged", name)
		}
		if left, _ := filepath.Glob(r.member.DataDir + ".staged-*"); len(left) > 0 || r.state().Staged != "" {
			t.Errorf("%s: left %v", name, left)
		}
	}
	if err := r.stage(plain); err != nil {
		t.Fatal(err)
	}
	read := false
	if err := r.stage(func(in io.Reader) io.Reader { return readMark{in, &read} }); err != nil || read {
		t.Errorf("staged again what was there: read %v, %v", read, err)
	}
	db := filepath.Join(r.member.DataDir+".staged-"+r.run, "member", "snap", "db")
	if err := os.WriteFile(db, other, 0o600); err != nil {
		t.Fatal(err)
	}
	if s := r.state(); s.Intact {
		t.Error("a changed staged database counts as intact")
	}
	r.must(restore.ActInhibit)
	var h *restore.HostError
	if err := r.apply(restore.ActExchange); !errors.As(err, &h) || h.Code != restore.HostNotStaged {
		t.Errorf("exchanged a changed staged database: %v", err)
	}
	if err := r.stage(plain); err != nil || !r.state().Intact {
		t.Errorf("stage anew: %v", err)
	}
}

// A file that nobody else needs is moved, where it lies on the same file system.
func TestStageTakesTheFile(t *testing.T) {
	for name, dir := range map[string]string{"the same file system": t.TempDir(), "another file system": "/dev/shm"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, t.TempDir())
			r.old()
			r.must(restore.ActLock)
			spool, err := os.CreateTemp(dir, "prepared-")
			if err != nil {
				t.Skip(err)
			}
			defer os.Remove(spool.Name())
			defer spool.Close()
			if _, err := spool.Write(newDatabase()); err != nil {
				t.Fatal(err)
			}
			req := r.stageRequest()
			req.Take = true
			req.Size++
			if err := r.h.Stage(t.Context(), req, spool); err == nil {
				t.Fatal("a database of another size was staged")
			}
			if _, err := os.Stat(spool.Name()); err != nil {
				t.Fatalf("what was refused is gone: %v", err)
			}
			req.Size--
			if _, err := spool.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if err := r.h.Stage(t.Context(), req, spool); err != nil {
				t.Fatal(err)
			}
			staged, err := os.ReadFile(filepath.Join(r.member.DataDir+".staged-"+r.run, "member", "snap", "db"))
			if err != nil || !bytes.Equal(staged, newDatabase()) || !r.state().Intact {
				t.Errorf("staged %d bytes, %v; %+v", len(staged), err, r.state())
			}
			_, err = os.Stat(spool.Name())
			if same := dir != "/dev/shm"; same != errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the file that was given: %v", err)
			}
		})
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the line is cut") }

type readMark struct {
	io.Reader
	read *bool
}

func (r readMark) Read(p []byte) (int, error) { *r.read = true; return r.Reader.Read(p) }

// A process that opens the old database in the middle of the exchange would go on with the new WAL: everything goes back.
func TestIntruderInTheExchange(t *testing.T) {
	r := newRig(t, t.TempDir())
	r.old()
	r.must(restore.ActLock)
	if err := r.stage(plain); err != nil {
		t.Fatal(err)
	}
	r.must(restore.ActInhibit)
	p, err := newPlace(r.member, r.run)
	if err != nil {
		t.Fatal(err)
	}
	j, err := p.ownJournal()
	if err != nil {
		t.Fatal(err)
	}
	var intruder *exec.Cmd
	err = r.h.swapUnits(t.Context(), p, j, forward, backward, func() error {
		intruder = exec.Command("/bin/sh", "-c", "exec 3<"+r.member.DataDir+"/member/snap/db; echo open; read wait")
		out, err := intruder.StdoutPipe()
		if err != nil {
			return err
		}
		if _, err := intruder.StdinPipe(); err != nil {
			return err
		}
		if err := intruder.Start(); err != nil {
			return err
		}
		if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
			return err
		}
		j.Here.SwapBegun = time.Now()
		return p.writeJournal(j)
	})
	defer func() {
		_ = intruder.Process.Kill()
		_ = intruder.Wait() // it was killed
	}()
	var h *restore.HostError
	if !errors.As(err, &h) || h.Code != restore.HostRunning || !strings.Contains(h.What, fmt.Sprint(intruder.Process.Pid)) {
		t.Fatalf("exchange with an intruder: %v", err)
	}
	if s := r.state(); s.Place != restore.PlaceOld || r.db() != "old database" || len(s.Running) == 0 {
		t.Errorf("place %s, database %q, running %v", s.Place, r.db(), s.Running)
	}
}

// A lock whose owner was killed after it had ended its run, but before it gave the lock back, keeps no other run out; one whose run goes
// on does.
func TestLockOfAnEndedRun(t *testing.T) {
	for _, ended := range []bool{true, false} {
		r := newRig(t, t.TempDir())
		r.old()
		r.owner.PID, r.owner.Start = 1<<30, "" // no process has that number
		r.must(restore.ActLock)
		if ended {
			p, err := newPlace(r.member, r.run)
			if err != nil {
				t.Fatal(err)
			}
			j, err := p.ownJournal()
			if err == nil {
				j.Ended = time.Now()
				err = p.writeJournal(j)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		r.run, r.owner = "r00000000001", Owner("next")
		err := r.apply(restore.ActLock)
		var h *restore.HostError
		switch {
		case ended && err != nil:
			t.Errorf("the next run is kept out by one that ended: %v", err)
		case ended:
			r.must(restore.ActUnlock)
		case !errors.As(err, &h) || h.Code != restore.HostLocked:
			t.Errorf("the lock of an unfinished run was taken by another: %v", err)
		}
	}
}

// Who uses a member's place is found by the port as well, and named.
func TestPortsAreSeen(t *testing.T) {
	r := newRig(t, t.TempDir())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r.member.PeerURL = "http://" + l.Addr().String()
	s := r.state()
	if s.Stopped() || len(s.Ports) != 1 || s.Ports[0].PID != os.Getpid() {
		t.Errorf("ports %+v", s.Ports)
	}
	r.member.PeerURL = strings.Replace(r.member.PeerURL, "127.0.0.1", "127.0.0.2", 1)
	if s := r.state(); !s.Stopped() {
		t.Errorf("another address of this machine counts as taken: %+v", s.Ports)
	}
}

// A status command that hangs or is missing is no answer, and so no proof that the member is down.
func TestStatusMustAnswer(t *testing.T) {
	for name, command := range map[string]string{"hangs": "sleep 60", "is missing": "/nonexistent/status", "is killed": "kill -9 $$"} {
		r := newRig(t, t.TempDir())
		r.member.Service.Status, r.member.Service.Timeout = command, 200*time.Millisecond
		_, err := r.h.Inspect(t.Context(), restore.InspectRequest{Member: r.member})
		var h *restore.HostError
		if !errors.As(err, &h) || h.Code != restore.HostCommand {
			t.Errorf("a status command that %s: %v", name, err)
		}
	}
}

// What a start command leaves in the background lives on, and its output is shown when it fails.
func TestCommands(t *testing.T) {
	r := newRig(t, t.TempDir())
	p, err := newPlace(r.member, r.run)
	if err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	if err := p.must(ctx, "start", "sleep 60 & echo $! > "+pidFile); err != nil {
		t.Fatal(err)
	}
	cancel()
	b, err := os.ReadFile(pidFile)
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(b), &pid); err != nil {
		t.Fatal(err)
	}
	if !processExists(pid) {
		t.Error("what the start command left in the background is gone")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	err = p.must(t.Context(), "start", "echo bad flag >&2; exit 4")
	if err == nil || !strings.Contains(err.Error(), "code 4") || !strings.Contains(err.Error(), "bad flag") {
		t.Errorf("a failing start command: %v", err)
	}
}
