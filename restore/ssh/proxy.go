package ssh

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"
)

// proxyCommand fills in the tokens of a ProxyCommand, those that ssh_config(5) allows there. A name that a shell would not take as it stands is refused.
func (s settings) proxyCommand(text, host, port string) (string, error) {
	tokens := map[byte]string{'%': "%", 'h': strings.Trim(host, "[]"), 'n': s.name, 'p': port, 'r': s.user}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '%' {
			b.WriteByte(text[i])
			continue
		}
		if i++; i == len(text) {
			return "", fmt.Errorf("%q ends with a single %%: write %%%%", text)
		}
		value, known := tokens[text[i]]
		switch {
		case !known:
			return "", fmt.Errorf("%q has %%%c, which means nothing there: ssh_config(5) has %%%%, %%h, %%n, %%p and %%r", text, text[i])
		case text[i] != '%' && !plainWord(value):
			return "", fmt.Errorf("%%%c would be %q, which means something else to a shell", text[i], value)
		}
		b.WriteString(value)
	}
	return b.String(), nil
}

// plainWord says whether a shell takes a text as it stands, and a program as no option.
func plainWord(text string) bool {
	return !strings.HasPrefix(text, "-") && !strings.ContainsAny(text, "'`\"$\\;&<>|(){},") &&
		!strings.ContainsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) })
}

// proxyEndWithin is how long a ProxyCommand has to end by itself, at its end of the connection and when it is told to.
const proxyEndWithin = time.Second

// proxied is a connection that is the standard input and output of a ProxyCommand. The program has a session of its own: no terminal at which it could ask
// anything, and a process group that ends with it.
type proxied struct {
	command   string
	pid       int
	in        io.WriteCloser
	out       io.ReadCloser
	complaint lastWords
	how       string        // it ended, once ended is closed
	cut       bool          // it was told to, once Close has returned
	ended     chan struct{} // closed when the program is gone
	told      chan struct{} // closed when all that it complained about is known
	stderr    io.Closer
	once      sync.Once
}

var _ net.Conn = (*proxied)(nil)

// runProxy starts the command as ssh(1) does, by the user's shell. Closing the connection ends it.
func runProxy(command string) (*proxied, error) {
	shell := first(os.Getenv("SHELL"), "/bin/sh")
	cmd := exec.Command(shell, "-c", "exec "+command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	p := &proxied{command: command, ended: make(chan struct{}), told: make(chan struct{})}
	// Pipes and no sockets: with those some shells take themselves for a remote one, and read files that may print something.
	var err error
	var stderr io.ReadCloser
	if p.in, err = cmd.StdinPipe(); err == nil {
		p.out, err = cmd.StdoutPipe()
	}
	if err == nil {
		stderr, err = cmd.StderrPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("run ProxyCommand %q by %s: %w", command, shell, err)
	}
	p.pid, p.stderr = cmd.Process.Pid, stderr
	go func() {
		_, _ = io.Copy(&p.complaint, stderr) // its end, or ours
		close(p.told)
	}()
	go func() {
		// Not cmd.Wait, which would close what has still to be read.
		state, err := cmd.Process.Wait()
		p.kill(syscall.SIGKILL) // what it leaves behind
		if p.how = "it is not known how"; err == nil {
			p.how = state.String()
		}
		close(p.ended)
	}()
	return p, nil
}

// kill sends a signal to the program and to what it has started.
func (p *proxied) kill(s syscall.Signal) { _ = syscall.Kill(-p.pid, s) } // nobody may be left

// Read tells the end of the output once the program has ended, so that it is known how, or if it takes its time for that.
func (p *proxied) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	return n, p.await(err)
}

// Write is like Read.
func (p *proxied) Write(b []byte) (int, error) {
	n, err := p.in.Write(b)
	return n, p.await(err)
}

func (p *proxied) await(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.EPIPE) {
		select {
		case <-p.ended:
		case <-time.After(proxyEndWithin):
		}
	}
	return err
}

// Close ends the program and returns when it is gone.
func (p *proxied) Close() error {
	p.once.Do(func() {
		_ = p.in.Close() // there is nothing to lose
		_ = p.out.Close()
		select {
		case <-p.ended:
		default:
			p.cut = true
			p.kill(syscall.SIGHUP)
		}
		select {
		case <-p.ended:
		case <-time.After(proxyEndWithin):
			p.kill(syscall.SIGKILL)
			<-p.ended
		}
		select {
		case <-p.told:
		case <-time.After(proxyEndWithin): // somebody in another session has it as well
		}
		_ = p.stderr.Close() // it was only read
		<-p.told
	})
	return nil
}

// explain closes the connection and adds to the error of a login through it what the program had to say.
func (p *proxied) explain(err error) error {
	_ = p.Close() // which always works
	lost, ok := errors.AsType[*LostError](err)
	if !ok {
		return err // somebody answered
	}
	said := fmt.Sprintf("ProxyCommand %q", p.command)
	if !p.cut {
		said += " ended: " + p.how
	}
	if words := p.words(); words != "" {
		said += ": " + words
	}
	return &LostError{Host: lost.Host, Err: fmt.Errorf("%w: %s", lost.Err, said)}
}

// words are the last two lines of what the program complained about: ssh(1) says the cause in the one and the consequence in the other.
func (p *proxied) words() string {
	var lines []string
	for line := range strings.Lines(p.complaint.text()) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return clip([]byte(strings.Join(lines[max(0, len(lines)-2):], "; ")))
}

// The addresses are unknown: only the program knows whom it talks to.
func (p *proxied) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (p *proxied) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// Deadlines are not needed: Close ends what is under way.
func (p *proxied) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (p *proxied) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (p *proxied) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
