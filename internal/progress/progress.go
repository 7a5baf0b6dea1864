// Package progress shows the stages of long work to the person who waits: bars
// with bytes and rate on a terminal, one line per finished stage otherwise.
package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/requorum/requorum/storage/catalog"
)

// Reporter shows stages. Several may run at once. It is safe for concurrent use;
// a nil Reporter shows nothing.
type Reporter struct {
	w    io.Writer
	bars *mpb.Progress // nil: lines

	mu     sync.Mutex
	stages map[string]*stage
}

type stage struct {
	began time.Time
	bytes int64
	bar   *mpb.Bar
}

// New returns a Reporter that writes on w: bars if w is a terminal, else lines.
func New(w io.Writer, terminal bool) *Reporter {
	r := &Reporter{w: w, stages: make(map[string]*stage)}
	if terminal {
		r.bars = mpb.New(mpb.WithOutput(w), mpb.WithAutoRefresh(), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))
	}
	return r
}

// Start begins a stage. total is the number of bytes it will go through, 0 if it
// is not known or not counted.
func (r *Reporter) Start(name string, total int64) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &stage{began: time.Now()}
	if old := r.stages[name]; old != nil && old.bar != nil {
		old.bar.Abort(true)
	}
	r.stages[name] = s
	if r.bars == nil {
		return
	}
	label := decor.Name(name, decor.WC{C: decor.DindentRight | decor.DextraSpace, W: 22})
	// A finished stage's bar gives way to its line.
	took := decor.Elapsed(decor.ET_STYLE_GO, decor.WCSyncSpace)
	if total <= 0 {
		s.bar = r.bars.New(0, mpb.SpinnerStyle().PositionLeft(), mpb.PrependDecorators(label),
			mpb.AppendDecorators(decor.CurrentKiloByte("% .1f"), took))
		return
	}
	s.bar = r.bars.New(total, mpb.BarStyle().Rbound("]").Lbound("["), mpb.PrependDecorators(label),
		mpb.AppendDecorators(decor.CountersKiloByte("% .1f / % .1f"), decor.Name("  "), decor.AverageSpeed(decor.SizeB1000(0), "% .1f"), took))
}

// Advance adds n bytes to a stage that has begun.
func (r *Reporter) Advance(name string, n int64) {
	if r == nil {
		return
	}
	r.mu.Lock()
	s := r.stages[name]
	if s != nil {
		s.bytes += n
	}
	r.mu.Unlock()
	if s != nil && s.bar != nil {
		s.bar.IncrInt64(n)
	}
}

// Done ends a stage; detail says in a few words what came of it.
func (r *Reporter) Done(name, detail string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	s := r.stages[name]
	delete(r.stages, name)
	r.mu.Unlock()
	if s == nil {
		s = &stage{began: time.Now()}
	}
	if s.bar != nil {
		s.bar.Abort(true) // not completed: the total was an estimate
		s.bar.Wait()
	}
	r.line("%s", describe(name, detail, s.bytes, time.Since(s.began)))
}

// Say writes a line between the stages.
func (r *Reporter) Say(format string, args ...any) {
	if r != nil {
		r.line(format, args...)
	}
}

// Close ends what is still shown, as it stands.
func (r *Reporter) Close() {
	if r == nil || r.bars == nil {
		return
	}
	r.mu.Lock()
	for _, s := range r.stages {
		if s.bar != nil {
			s.bar.Abort(false)
		}
	}
	r.mu.Unlock()
	r.bars.Wait()
}

func (r *Reporter) line(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf(format, args...) + "\n"
	if r.bars != nil {
		if _, err := r.bars.Write([]byte(text)); err == nil {
			return
		} // the container is closed
	}
	_, _ = io.WriteString(r.w, text) // nobody is served by an error of stderr
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
