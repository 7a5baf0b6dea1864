// Package progress shows the stages of long work to the person who waits: bars
// with bytes and rate on a terminal, one line per finished stage otherwise.
package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

// Reporter shows stages. Several may run at once. It is safe for concurrent use;
// a nil Reporter shows nothing.
type Reporter struct {
	w     io.Writer
	width func() int // nil: lines

	mu     sync.Mutex
	stages []*stage // that have begun and not ended, in this order
	drawn  int      // lines of the screen that the bars take now
	frame  int
	aside  bool
	held   strings.Builder // lines that came while aside
	stop   func()          // ends the drawing; nil while nothing is drawn
}

type stage struct {
	name  string
	began time.Time
	bytes int64
	total int64
}

// New returns a Reporter that writes on w: bars if w is a terminal, whose width in columns the function tells each time, else lines.
func New(w io.Writer, width func() int) *Reporter {
	return &Reporter{w: w, width: width}
}

// Start begins a stage. total is the number of bytes it will go through, 0 if it
// is not known or not counted. A stage of that name that has not ended begins anew.
func (r *Reporter) Start(name string, total int64) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(name)
	r.stages = append(r.stages, &stage{name: name, began: time.Now(), total: total})
	if r.width != nil && r.stop == nil {
		r.stop = r.animate()
	}
}

// Advance adds n bytes to a stage that has begun.
func (r *Reporter) Advance(name string, n int64) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.stages {
		if s.name == name {
			s.bytes += n
		}
	}
}

// Done ends a stage: its bar gives way to a line. detail says in a few words what came of it.
func (r *Reporter) Done(name, detail string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.take(name)
	if s == nil {
		s = &stage{name: name, began: time.Now()}
	}
	r.line(describe(name, detail, s.bytes, time.Since(s.began)))
}

// Say writes a line between the stages.
func (r *Reporter) Say(format string, args ...any) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line(fmt.Sprintf(format, args...))
}

// Write writes whole lines of others, such as warnings, where they are not drawn over.
func (r *Reporter) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clear()
	n, err := r.w.Write(p)
	r.draw()
	return n, err
}

// Aside runs f with the screen to itself, for a question to a person: no bar is drawn meanwhile, and lines come after it. Only what is
// written with Write is shown at once.
func (r *Reporter) Aside(f func()) {
	if r == nil {
		f()
		return
	}
	r.mu.Lock()
	r.clear()
	r.aside = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.aside = false
		_, _ = io.WriteString(r.w, r.held.String())
		r.held.Reset()
		r.draw()
	}()
	f()
}

// Close ends what is still shown, as it stands. The Reporter may be used again.
func (r *Reporter) Close() {
	if r == nil {
		return
	}
	r.mu.Lock()
	stop := r.stop
	r.stop = nil
	r.clear()
	r.draw()
	r.stages, r.drawn = nil, 0
	r.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// take removes a stage; nil if there is none of that name.
func (r *Reporter) take(name string) *stage {
	i := slices.IndexFunc(r.stages, func(s *stage) bool { return s.name == name })
	if i < 0 {
		return nil
	}
	s := r.stages[i]
	r.stages = slices.Delete(r.stages, i, i+1)
	return s
}

// line writes a line above the bars.
func (r *Reporter) line(text string) {
	if r.aside {
		r.held.WriteString(text + "\n")
		return
	}
	r.clear()
	_, _ = io.WriteString(r.w, text+"\n") // nobody is served by an error of stderr
	r.draw()
}

// animate draws the bars again and again; stop ends that, and waits for it.
func (r *Reporter) animate() (stop func()) {
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			r.mu.Lock()
			if r.stop != nil {
				r.frame++
				r.clear()
				r.draw()
			}
			r.mu.Unlock()
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}

// clear takes the bars off the screen.
func (r *Reporter) clear() {
	if r.drawn > 0 {
		fmt.Fprintf(r.w, "\x1b[%dA\r\x1b[J", r.drawn)
		r.drawn = 0
	}
}

// draw shows a bar for each stage. The cursor is at the beginning of a line.
func (r *Reporter) draw() {
	if r.width == nil || r.aside || len(r.stages) == 0 {
		return
	}
	var b strings.Builder
	for _, s := range r.stages {
		b.WriteString(s.bar(r.width(), r.frame) + "\n")
	}
	_, _ = io.WriteString(r.w, b.String())
	r.drawn = len(r.stages)
}

// bar is the one line that a running stage takes on a terminal of so many columns: a longer one would be broken in two, and not be taken off whole.
func (s *stage) bar(columns, frame int) string {
	took := time.Since(s.began)
	counted := ""
	switch {
	case s.total > 0:
		counted = fmt.Sprintf("%s of %s", catalog.Size(s.bytes), catalog.Size(s.total))
	case s.bytes > 0:
		counted = catalog.Size(s.bytes)
	}
	if rate := float64(s.bytes) / took.Seconds(); s.bytes > 0 && took >= time.Second {
		counted += fmt.Sprintf(", %s/s", catalog.Size(int64(rate)))
		if left := s.total - s.bytes; left > 0 {
			counted += fmt.Sprintf(", %s left", (time.Duration(float64(left) / rate * float64(time.Second))).Round(time.Second))
		}
	}
	text := fmt.Sprintf("%-22s %8s  %s", s.name, took.Truncate(time.Second), counted)
	room := columns - 1 - len(text) - 4 // for the brackets and what separates them
	switch room = min(room, 30); {
	case s.total > 0 && room >= 5:
		full := int(min(s.bytes, s.total) * int64(room) / s.total)
		text += "  [" + strings.Repeat("=", full) + strings.Repeat(" ", room-full) + "]"
	case s.total <= 0:
		text = fmt.Sprintf("%-22s %8s %c %s", s.name, took.Truncate(time.Second), `|/-\`[frame%4], counted)
	}
	if r := []rune(text); columns > 1 && len(r) >= columns {
		text = string(r[:columns-1])
	}
	return text
}

func describe(name, detail string, bytes int64, took time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s %8s", name, took.Round(10*time.Millisecond))
	if bytes > 0 {
		fmt.Fprintf(&b, "  %s", catalog.Size(bytes))
		if s := took.Seconds(); s >= 0.1 {
			fmt.Fprintf(&b, " (%s/s)", catalog.Size(int64(float64(bytes)/s)))
		}
	}
	if detail != "" {
		fmt.Fprintf(&b, "  %s", detail)
	}
	return b.String()
}
