package dbfile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// The child gets the database as descriptor 3 and a request as JSON on its standard input, and answers with messages as JSON on its
// standard output. It only reads the file.
const (
	childVariable = "REQUORUM_CHILD"
	childRole     = "dbfile-check"

	progressInterval = 100 * time.Millisecond
	defaultStall     = time.Minute
	rowsPerMessage   = 256
)

// message is what the child says: any number of progress and index messages, then a report or a failure.
type message struct {
	Stage string `json:"stage,omitempty"`
	Done  int64  `json:"done,omitempty"`

	Keys   []*mvccpb.KeyValue `json:"keys,omitempty"`
	Leases []lease            `json:"leases,omitempty"`

	Report    *Report  `json:"report,omitempty"`
	Truncated bool     `json:"truncated,omitempty"` // of the Index
	Failure   *failure `json:"failure,omitempty"`
}

type failure struct{ Stage, Text string }

// CheckInChild checks the database file f from its beginning, wherever its offset stands: sha256 trailer, every page and
// every reference between pages, every row; and reports what the file holds. f stays open and is not changed; it may
// have been unlinked. A file that does not pass, or that kills the child, is a *CheckError; any other error says nothing
// about the file. When ctx ends, the child is killed.
//
// The child's anonymous memory is 5 MiB, the Index, and at most 14 MiB for each million keys that the file's history shows changed or
// deleted; for keys that it only shows created, nothing. The file itself is mapped. BenchmarkCheckInChild, two cores, file in
// the page cache, machine busy with other work: 2.5 GB of 2 kB values in 2.7 s and 4 MiB; 1.4 GB of 256-byte values with 3.3 million keys
// in 3.8 s and 4 MiB, with 1.65 million keys all changed once in 6.1 s and 36 MiB.
func CheckInChild(ctx context.Context, f *os.File, o CheckOptions) (Report, error) {
	r, err := checkIn(ctx, childRole, f, o)
	var verdict *CheckError
	if err != nil && !errors.As(err, &verdict) {
		err = fmt.Errorf("check database file: %w", err)
	}
	return r, err
}

var errStalled = errors.New("no progress")

// checkIn is CheckInChild with a child that serves as role.
func checkIn(ctx context.Context, role string, f *os.File, o CheckOptions) (Report, error) {
	if os.Getenv(childVariable) != "" {
		return Report{}, fmt.Errorf("this is a child itself (%s=%s): main must begin with dbfile.RunChild", childVariable, os.Getenv(childVariable))
	}
	ask, err := json.Marshal(request{Select: o.Select, TrailerRequired: o.TrailerRequired, Unhashed: o.Unhashed})
	if err != nil {
		return Report{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return Report{}, err
	}
	exe, err := os.Executable()
	if err != nil {
		return Report{}, err
	}
	stall := o.Stall
	if stall == 0 {
		stall = defaultStall
	}
	killable, kill := context.WithCancelCause(ctx)
	defer kill(nil)
	watchdog := time.AfterFunc(stall, func() { kill(fmt.Errorf("%w for %s, killed", errStalled, stall)) })
	defer watchdog.Stop()

	cmd := exec.CommandContext(killable, exe)
	cmd.Args = []string{"requorum-" + role}
	// A small heap that is collected often: nearly all that is allocated stays.
	cmd.Env = append(os.Environ(), childVariable+"="+role, "GOGC=20")
	cmd.ExtraFiles = []*os.File{f}
	cmd.SysProcAttr = dieWithParent()
	cmd.Stdin = bytes.NewReader(ask)
	var words firstWords
	cmd.Stderr = &words
	answers, err := cmd.StdoutPipe()
	if err != nil {
		return Report{}, err
	}
	started, listened, ended := make(chan error), make(chan struct{}), make(chan struct{})
	go func() {
		// The kernel ends the child together with the thread that started it, so that thread stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			<-listened
			_ = cmd.Wait() // cmd.ProcessState tells the same
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		return Report{}, fmt.Errorf("start a child process: %w", err)
	}
	h := hearing{options: o, total: info.Size(), alive: func() { watchdog.Reset(stall) }}
	err = h.listen(answers)
	if !errors.Is(err, io.EOF) {
		kill(nil) // it has nothing more to say
	}
	close(listened)
	<-ended

	var verdict *CheckError
	switch {
	case err == nil:
		return *h.report, nil
	case errors.As(err, &verdict):
		return Report{}, err
	case ctx.Err() != nil:
		return Report{}, context.Cause(ctx)
	case errors.Is(context.Cause(killable), errStalled):
		return Report{}, &CheckError{Stage: StageCrash, During: h.stage, Err: context.Cause(killable)}
	}
	return Report{}, &CheckError{Stage: StageCrash, During: h.stage, Err: fmt.Errorf("the checking process ended (%s) without a verdict: %w%s", cmd.ProcessState, err, words.String())}
}

// hearing is what the parent has heard.
type hearing struct {
	options CheckOptions
	total   int64
	alive   func() // called whenever the child got on

	stage  string
	done   int64
	report *Report
}

// listen reads messages until the report has come. A failure that the child tells is a *CheckError.
func (h *hearing) listen(r io.Reader) error {
	index := &Index{sel: h.options.Select, leases: make(map[int64]int64)}
	for d := json.NewDecoder(r); ; {
		var m message
		if err := d.Decode(&m); err != nil {
			return err
		}
		switch {
		case m.Failure != nil:
			return &CheckError{Stage: m.Failure.Stage, Err: errors.New(m.Failure.Text)}
		case m.Report != nil:
			index.revision, index.truncated = m.Report.Revision, m.Truncated
			m.Report.Index = index
			h.report = m.Report
			h.progress(h.total)
			return nil
		case len(m.Keys)+len(m.Leases) > 0:
			index.keys = append(index.keys, m.Keys...)
			for _, l := range m.Leases {
				index.leases[l.ID] = l.TTL
			}
			h.alive()
		case m.Stage != h.stage || m.Done != h.done:
			h.stage = m.Stage
			h.progress(m.Done)
			h.alive()
		}
	}
}

func (h *hearing) progress(done int64) {
	h.done = done
	if h.options.Progress != nil {
		h.options.Progress(done, h.total)
	}
}

// firstWords keeps the beginning of what the child wrote on its standard error: a Go program that dies says why, then
// prints all its stacks.
type firstWords struct{ b []byte }

func (w *firstWords) Write(p []byte) (int, error) {
	const most = 400
	w.b = append(w.b, p[:min(len(p), most-len(w.b))]...)
	return len(p), nil
}

func (w *firstWords) String() string {
	text, _, _ := strings.Cut(strings.TrimSpace(string(w.b)), "\n\n")
	if text == "" {
		return ""
	}
	return ": " + strings.ReplaceAll(text, "\n", "; ")
}

// RunChild is the first statement of main and of every TestMain in a program that calls CheckInChild. In the child it does the
// work and ends the process; elsewhere it returns at once.
func RunChild() {
	if os.Getenv(childVariable) != childRole {
		return
	}
	if err := serve(os.NewFile(3, "database"), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is the child: it reads one request and answers it.
func serve(f *os.File, in io.Reader, out io.Writer) error {
	var c checker
	if err := json.NewDecoder(in).Decode(&c.opts); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	c.enter(StageOpen)
	answer := json.NewEncoder(out)

	done, quiet := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(quiet)
		for tick := time.NewTicker(progressInterval); ; {
			// An error means that the parent is gone, and then the process will be, too.
			_ = answer.Encode(message{Stage: *c.stage.Load(), Done: c.progress()})
			select {
			case <-done:
				return
			case <-tick.C:
			}
		}
	}()
	report, leases, err := c.checkFile(f)
	close(done)
	<-quiet

	if err != nil {
		var verdict *CheckError
		if !errors.As(err, &verdict) {
			return err
		}
		return answer.Encode(message{Failure: &failure{Stage: verdict.Stage, Text: verdict.Err.Error()}})
	}
	for keys := range slices.Chunk(report.Index.keys, rowsPerMessage) {
		if err := answer.Encode(message{Keys: keys}); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(leases, rowsPerMessage) {
		if err := answer.Encode(message{Leases: some}); err != nil {
			return err
		}
	}
	last := message{Report: &report, Truncated: report.Index.truncated}
	report.Index = nil
	return answer.Encode(last)
}
