package progress

import (
	"bytes"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Where stderr is a file, each stage is one line with bytes and detail, and no
// control characters reach a log.
func TestLines(t *testing.T) {
	var out bytes.Buffer
	r := New(&out, nil)
	r.Start("stream", 0)
	r.Advance("stream", 1_500_000)
	r.Start("upload", 2_000_000)
	r.Advance("upload", 300_000)
	r.Done("stream", "from etcd2")
	r.Done("upload", "")
	r.Say("two copies")
	r.Close()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3:\n%s", len(lines), out.String())
	}
	for i, want := range [][]string{{"stream", "1.5 MB", "from etcd2"}, {"upload", "300.0 kB"}, {"two copies"}} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("line %d is %q, without %q", i, lines[i], w)
			}
		}
	}
	if strings.ContainsAny(out.String(), "\x1b\r") {
		t.Errorf("control characters in %q", out.String())
	}
}

// On a terminal a bar shows bytes on the way and gives way to the line of its stage, also when it had come to its total.
func TestBars(t *testing.T) {
	var out screen
	r := New(&out, func() int { return 80 })
	r.Start("stream", 10_000_000)
	r.Advance("stream", 5_000_000)
	out.shows(t, "stream ", "5.0 MB of 10.0 MB", "[===")
	r.Advance("stream", 5_000_000)
	out.shows(t, "10.0 MB of 10.0 MB")
	r.Start("check", 0)
	out.shows(t, "stream ", "check ")
	r.Done("stream", "from etcd2")
	if _, err := io.WriteString(r, "warning: slow\n"); err != nil {
		t.Fatal(err)
	}
	r.Say("two copies")
	r.Done("check", "")
	r.Close()
	lines := out.lines()
	if len(lines) != 4 {
		t.Fatalf("%d lines, want 4:\n%s", len(lines), strings.Join(lines, "\n"))
	}
	for i, want := range []string{"from etcd2", "warning: slow", "two copies", "check "} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("line %d is %q, without %q", i, lines[i], want)
		}
	}
}

// A stage that was abandoned stays as it stood, does not make Close wait for ever, and does not come back with the next one.
func TestAbandoned(t *testing.T) {
	var out screen
	r := New(&out, func() int { return 80 })
	r.Start("upload", 2_000_000)
	r.Advance("upload", 1_000_000)
	r.Close()
	before := out.lines()
	if len(before) != 1 || !strings.Contains(before[0], "1.0 MB of 2.0 MB") {
		t.Fatalf("an abandoned stage left %q", before)
	}
	r.Start("again", 0)
	r.Done("again", "")
	r.Close()
	if after := out.lines(); len(after) != 2 || after[0] != before[0] {
		t.Fatalf("the screen is %q", after)
	}
}

// A question is not drawn over, however long the answer takes and whatever ends meanwhile.
func TestAside(t *testing.T) {
	var out screen
	r := New(&out, func() int { return 80 })
	r.Start("fetch", 1_000_000)
	r.Start("predict", 0)
	out.shows(t, "predict")
	r.Aside(func() {
		fmt.Fprint(r, "the plan\nType the name: ")
		r.Done("fetch", "")
		r.Start("stage", 0)
		for asked := time.Now(); time.Since(asked) < 500*time.Millisecond; time.Sleep(50 * time.Millisecond) {
			if got := out.lines(); len(got) != 2 || got[1] != "Type the name: " {
				t.Fatalf("while a person is asked, the screen is %q", got)
			}
		}
		fmt.Fprint(r, "dcs\n")
	})
	out.shows(t, "fetch", "predict", "stage")
	r.Done("predict", "")
	r.Done("stage", "")
	r.Close()
	if got := out.lines(); len(got) != 5 || got[1] != "Type the name: dcs" || !strings.HasPrefix(got[2], "fetch") {
		t.Errorf("the screen is %q", got)
	}
}

// A line that is wider than the terminal would take two and not be cleared whole.
func TestNarrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a minute is one, on any machine
		s := &stage{name: "stream", began: time.Now().Add(-time.Minute), bytes: 7_900_000_000, total: 8_000_000_000}
		for columns := 2; columns < 140; columns++ {
			if bar := s.bar(columns, 0); len(bar) >= columns {
				t.Errorf("%d columns: %q has %d", columns, bar, len(bar))
			}
		}
		for _, want := range []string{"7.9 GB of 8.0 GB", "131.7 MB/s", "1s left", "[====="} {
			if bar := s.bar(120, 0); !strings.Contains(bar, want) {
				t.Errorf("%q lacks %q", bar, want)
			}
		}
		if bar := (&stage{name: "s", began: time.Now(), bytes: 30, total: 10}).bar(80, 0); !strings.Contains(bar, "=]") {
			t.Errorf("more than was estimated: %q", bar)
		}
	})
}

// A nil Reporter is a valid one: libraries report without asking.
func TestNil(t *testing.T) {
	var r *Reporter
	r.Start("x", 1)
	r.Advance("x", 1)
	r.Done("x", "")
	r.Say("x")
	r.Close()
}

// screen is a terminal that knows what the bars use: up, to the line's beginning, clear what is below.
type screen struct {
	mu   sync.Mutex
	rows []string
	row  int
}

var control = regexp.MustCompile(`\x1b\[(\d+)A\r\x1b\[J|\n|[^\n\x1b]+`)

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range control.FindAllStringSubmatch(string(p), -1) {
		for len(s.rows) <= s.row {
			s.rows = append(s.rows, "")
		}
		switch up, err := strconv.Atoi(m[1]); {
		case err == nil:
			s.row -= up
			s.rows = s.rows[:s.row]
		case m[0] == "\n":
			s.row++
		default:
			s.rows[s.row] += m[0]
		}
	}
	return len(p), nil
}

func (s *screen) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.rows)
}

// shows waits until all of it is on the screen at once.
func (s *screen) shows(t *testing.T, want ...string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(5 * time.Millisecond) {
		text := strings.Join(s.lines(), "\n")
		if !slices.ContainsFunc(want, func(w string) bool { return !strings.Contains(text, w) }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the screen never showed %q:\n%s", want, text)
		}
	}
}
