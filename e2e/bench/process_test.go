package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/internal/etcdtest"
)

// An execution is a program that ran to its end.
type execution struct {
	seconds float64
	cpu     float64 // seconds of it and of the children that it waited for
	stdout  []byte
	peak    int64 // bytes: most RssAnon + RssShmem of it and all its descendants together; 0 if not watched
}

// run runs a program, which must succeed.
func run(b *testing.B, args ...string) execution {
	b.Helper()
	return newTask(b, args...).run(b)
}

// A task is a program to run.
type task struct {
	*exec.Cmd
	stdout, stderr bytes.Buffer
	watch          bool // its memory
}

func newTask(b *testing.B, args ...string) *task {
	t := &task{Cmd: exec.CommandContext(b.Context(), args[0], args[1:]...)}
	t.Stdout, t.Stderr = &t.stdout, &t.stderr
	t.SysProcAttr = etcdtest.ProcAttr()
	return t
}

func (t *task) run(b *testing.B) execution {
	b.Helper()
	runtime.LockOSThread() // the program ends with the thread that starts it
	defer runtime.UnlockOSThread()
	begun := time.Now()
	if err := t.Start(); err != nil {
		b.Fatalf("%s: %v", t, err)
	}
	stop, peak := make(chan struct{}), make(chan int64, 1)
	if t.watch {
		go func() { peak <- watchMemory(t.Process.Pid, stop) }()
	}
	err := t.Wait()
	e := execution{seconds: time.Since(begun).Seconds(), stdout: t.stdout.Bytes()}
	if t.watch {
		close(stop)
		e.peak = <-peak
	}
	if err != nil {
		b.Fatalf("%s: %v\n%s%s", t, err, t.stdout.Bytes(), t.stderr.Bytes())
	}
	e.cpu = (t.ProcessState.UserTime() + t.ProcessState.SystemTime()).Seconds()
	return e
}

// sampleEvery is how often memory is looked at.
const sampleEvery = 20 * time.Millisecond

// watchMemory returns the most RssAnon + RssShmem, in bytes, that the process pid and its descendants had together until stop
// was closed. Pages of files, such as a mapped database, belong to the kernel's cache and do not count.
func watchMemory(pid int, stop <-chan struct{}) (peak int64) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	ours := map[int]bool{pid: true} // false: known to be none of ours
	name := commandLine(pid)
	for {
		entries, err := os.ReadDir("/proc")
		if err != nil {
			return peak
		}
		var total int64
		for _, e := range entries {
			n, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			known, seen := ours[n]
			if seen && !known {
				continue
			}
			status, err := os.ReadFile(filepath.Join("/proc", e.Name(), "status"))
			if err != nil {
				continue // it has ended
			}
			if !seen {
				parent := int(field(status, "PPid:"))
				if ours[parent] && commandLine(n) == name {
					continue // about to become another program: until then its memory is its parent's, and counted there
				}
				ours[n] = ours[parent]
			}
			if ours[n] {
				total += (field(status, "RssAnon:") + field(status, "RssShmem:")) * 1024
			}
		}
		peak = max(peak, total)
		select {
		case <-stop:
			return peak
		case <-ticker.C:
		}
	}
}

// field reads a number of /proc/PID/status; a zombie has none about memory.
func field(status []byte, name string) (n int64) {
	_, rest, ok := bytes.Cut(status, []byte("\n"+name))
	if !ok {
		return 0
	}
	if _, err := fmt.Sscan(string(rest[:min(len(rest), 40)]), &n); err != nil {
		return 0
	}
	return n
}

// commandLine tells a program from its children; "" for one that has ended.
func commandLine(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return string(text)
}

// load is the machine's load average over a minute: above 1 or so somebody else is measured too.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// settle writes out what earlier work left to the disk, so that it is not billed to what is measured next.
func settle(b *testing.B) {
	b.Helper()
	run(b, "sync")
}
