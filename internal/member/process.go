package member

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
	"strings"
	"sync"
	"time"
)

// The child reads commands as JSON from descriptor 3 and answers them, one by one and in order, as JSON on descriptor 4. The first command
// is its options, answered when the server serves. When descriptor 3 ends, the child stops.
const (
	childVariable = "REQUORUM_CHILD"
	childRole     = "member"
)

type command struct {
	Start *Options `json:"start,omitempty"`
	Look  *int64   `json:"look,omitempty"` // at this revision; with Start, while a cluster of one elects
	Stop  bool     `json:"stop,omitempty"`
}

type answer struct {
	Served *Served `json:"served,omitempty"`
	Error  string  `json:"error,omitempty"`
}

// Process is an etcd server in a child process. Its methods may be called at once from several goroutines.
type Process struct {
	options Options
	cmd     *exec.Cmd

	asking   sync.Mutex // one command at a time
	commands *os.File
	answers  *json.Decoder

	done     chan struct{} // closed when the process has ended
	err      error         // why; set before done is closed
	wanted   sync.Once
	wantedCh chan struct{} // closed when Stop or Kill asked for the end
}

// Start starts an etcd server and returns once it serves, for which its cluster needs a quorum: start the members of a new cluster
// at the same time. If ctx ends before, or the server does not come up, nothing is left
// running, and the error holds the end of its log. Whoever starts a server stops it; when this process dies, the server does too.
func Start(ctx context.Context, o Options) (*Process, error) {
	p, _, err := begin(ctx, o, nil)
	return p, err
}

// begin starts a server, and looks at it at a revision if one is given.
func begin(ctx context.Context, o Options, revision *int64) (*Process, *Served, error) {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		p, served, err := launch(ctx, o, revision)
		if err == nil || attempt == attempts || !passing(err, o) {
			return p, served, err
		}
		select {
		case <-ctx.Done():
			return nil, nil, err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// passing says whether what kept a server from starting may be over by now: a port that was free was taken meanwhile; or a file that this
// process wrote is locked still, since a program that another thread of it has just forked holds all descriptors until it is executed.
func passing(err error, o Options) bool {
	ours := o.ListenClient == "" || o.ListenPeer == ""
	return ours && strings.Contains(err.Error(), "address already in use") || strings.Contains(err.Error(), "file already locked")
}

func launch(ctx context.Context, o Options, revision *int64) (*Process, *Served, error) {
	if os.Getenv(childVariable) != "" {
		return nil, nil, fmt.Errorf("start etcd member %s: this is a child itself: main must begin with member.RunChild", o.Name)
	}
	o, err := o.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	p := &Process{options: o, done: make(chan struct{}), wantedCh: make(chan struct{})}
	if err := p.spawn(); err != nil {
		return nil, nil, fmt.Errorf("start etcd member %s: %w", o.Name, err)
	}
	a, err := p.ask(ctx, command{Start: &o, Look: revision})
	if err != nil {
		p.Kill()
		return nil, nil, fmt.Errorf("start etcd member %s: %w", o.Name, err)
	}
	return p, a.Served, nil
}

// spawn starts the child process.
func (p *Process) spawn() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.options.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	commandsR, commandsW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer commandsR.Close()
	answersR, answersW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, commandsW.Close())
	}
	defer answersW.Close()

	p.cmd = exec.Command(exe)
	p.cmd.Args = []string{"requorum-" + childRole, p.options.Name}
	p.cmd.Env = append(os.Environ(), childVariable+"="+childRole)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.ExtraFiles = []*os.File{commandsR, answersW}
	p.cmd.SysProcAttr = dieWithParent()
	p.commands, p.answers = commandsW, json.NewDecoder(answersR)

	started := make(chan error)
	go func() {
		// The kernel ends the child together with the thread that started it, so that thread stays until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		exit := p.cmd.Wait()
		commandsW.Close()
		answersR.Close()
		select {
		case <-p.wantedCh:
		default:
			if exit == nil {
				exit = errors.New("exit status 0")
			}
			p.err = fmt.Errorf("etcd member %s ended by itself: %w%s", p.options.Name, exit, p.logTail())
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		return errors.Join(err, commandsW.Close(), answersR.Close())
	}
	return nil
}

// ask has the child carry out a command. When ctx ends first, the process is of no use any more and is killed.
func (p *Process) ask(ctx context.Context, c command) (answer, error) {
	p.asking.Lock()
	defer p.asking.Unlock()
	type reply struct {
		answer answer
		err    error
	}
	replies := make(chan reply, 1)
	go func() {
		var r reply
		if r.err = json.NewEncoder(p.commands).Encode(c); r.err == nil {
			r.err = p.answers.Decode(&r.answer)
		}
		replies <- r
	}()
	select {
	case <-ctx.Done():
		p.Kill()
		<-replies
		return answer{}, context.Cause(ctx)
	case r := <-replies:
		if r.err != nil { // only the process's end breaks the pipes
			<-p.done
			if p.err != nil {
				return answer{}, p.err
			}
			return answer{}, fmt.Errorf("etcd member %s was stopped", p.options.Name)
		}
		if r.answer.Error != "" {
			return answer{}, errors.New(r.answer.Error)
		}
		return r.answer, nil
	}
}

// Endpoint is the first client URL.
func (p *Process) Endpoint() string { return first(p.options.ListenClient) }

// PeerURL is the first peer URL.
func (p *Process) PeerURL() string { return first(p.options.ListenPeer) }

func first(list string) string {
	u, _, _ := strings.Cut(list, ",")
	return u
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Hash asks the server for HashKV at a revision, 0 for the current one, without credentials. When ctx ends before the answer,
// the server is killed.
func (p *Process) Hash(ctx context.Context, revision int64) (Hash, error) {
	a, err := p.ask(ctx, command{Look: &revision})
	if err != nil {
		return Hash{}, err
	}
	return a.Served.Hash, nil
}

// Stop ends the server in order, and kills it when ctx ends first. A process that has ended already is no error.
func (p *Process) Stop(ctx context.Context) error {
	p.want()
	_, err := p.ask(ctx, command{Stop: true})
	select {
	case <-p.done:
		return nil
	default:
	}
	if err != nil {
		return fmt.Errorf("stop etcd member %s: %w", p.options.Name, err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("stop etcd member %s: %w", p.options.Name, context.Cause(ctx))
	}
}

// Kill ends the server at once, as a crash would, and waits until it is gone.
func (p *Process) Kill() {
	p.want()
	_ = p.cmd.Process.Kill() // fails only for a process that has ended
	<-p.done
}

func (p *Process) want() { p.wanted.Do(func() { close(p.wantedCh) }) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says why the process ended by itself, with the end of its log; nil while it runs and after Stop or Kill.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// logTail is the end of the server's log.
func (p *Process) logTail() string {
	const most = 2 << 10
	f, err := os.Open(p.options.LogFile)
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	tail, err := io.ReadAll(io.NewSectionReader(f, max(0, info.Size()-most), most))
	if err != nil {
		return ""
	}
	if _, rest, ok := bytes.Cut(tail, []byte("\n")); ok && len(tail) == most {
		tail = rest // begin with a whole line
	}
	return "; its log ends with:\n" + string(bytes.TrimSpace(tail))
}

// HashOf starts a server on the data directory of a cluster of one, such as dbfile.StageAlone makes, in which nothing else must
// run; asks it for HashKV and more at a revision (0: the current one), and kills it. The server listens to nobody and needs no
// credentials. It changes the directory and does not sync it: give it a copy. Its log stands beside the directory.
func HashOf(ctx context.Context, dataDir string, revision int64) (Served, error) {
	o := alone(dataDir)
	o.Lazy = true
	p, served, err := begin(ctx, o, &revision)
	if err != nil {
		return Served{}, err
	}
	p.Kill()
	return *served, nil
}
