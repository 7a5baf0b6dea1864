package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

const (
	// dialTimeout bounds connecting to one machine, and logging in to it.
	dialTimeout = 10 * time.Second
	// aliveEvery and aliveWithin: a machine that has not answered for that long is lost.
	aliveEvery  = 5 * time.Second
	aliveWithin = 10 * time.Second
)

// A LostError says that a machine could not be reached, or is not reached any more. Trying again may help.
type LostError struct {
	Host string
	Err  error
}

func (e *LostError) Error() string { return fmt.Sprintf("host %s: %v", e.Host, e.Err) }
func (e *LostError) Unwrap() error { return e.Err }

// connect logs in to a machine, through others where it is reached so. Every connection is watched: one that is dead ends within aliveEvery and
// aliveWithin.
func connect(ctx context.Context, s settings) (*chain, error) {
	c := &chain{}
	for _, hop := range append(append([]settings{}, s.jumps...), s) {
		if err := c.extend(ctx, hop); err != nil {
			c.close()
			if hop.addr != s.addr {
				err = fmt.Errorf("jump host %s: %w", hop.name, err)
			}
			return nil, err
		}
	}
	return c, nil
}

// A chain is a login on a machine, and on those on the way to it, the last one being the machine itself.
type chain struct {
	clients []*gossh.Client
}

func (c *chain) client() *gossh.Client { return c.clients[len(c.clients)-1] }

// close ends all connections, the nearest one first: what hangs on a dead one must not be waited for.
func (c *chain) close() {
	for _, client := range c.clients {
		_ = client.Close() // it may be dead already
	}
}

// extend goes on from the last machine of the chain to the next.
func (c *chain) extend(ctx context.Context, s settings) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	ledger, err := newLedger(s)
	if err != nil {
		return err
	}
	keys := &keyring{settings: s}
	defer keys.close()
	signers, err := keys.signers(ctx)
	if err != nil {
		return err
	}
	conn, err := c.dial(ctx, s.addr)
	if err != nil {
		return &LostError{Host: s.name, Err: fmt.Errorf("connect: %w", err)}
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // which ends the handshake
	nc, channels, requests, err := gossh.NewClientConn(conn, s.known, &gossh.ClientConfig{
		User: s.user, Auth: []gossh.AuthMethod{gossh.PublicKeys(signers...)},
		HostKeyCallback: ledger.verify, HostKeyAlgorithms: ledger.algorithms(), ClientVersion: "SSH-2.0-requorum"})
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close() // it has not been used
		return keys.explain(ctx, err)
	}
	client := gossh.NewClient(nc, channels, requests)
	c.clients = append(c.clients, client)
	go watchAlive(client)
	return nil
}

func (c *chain) dial(ctx context.Context, addr string) (net.Conn, error) {
	if len(c.clients) == 0 {
		return (&net.Dialer{KeepAlive: aliveEvery}).DialContext(ctx, "tcp", addr)
	}
	return c.client().DialContext(ctx, "tcp", addr)
}

// explain turns the error of a handshake into one that says what to do.
func (k *keyring) explain(ctx context.Context, err error) error {
	var wrong *HostKeyError
	switch {
	case errors.As(err, &wrong):
		return wrong
	case ctx.Err() != nil:
		return &LostError{Host: k.name, Err: fmt.Errorf("log in to %s: no answer within %s", k.addr, k.timeout)}
	case strings.Contains(err.Error(), "unable to authenticate"):
		notes := ""
		if len(k.notes) > 0 {
			notes = "; " + strings.Join(k.notes, "; ")
		}
		return fmt.Errorf("user %s is not let in to %s with any key there is here%s: add the public key to that user's authorized_keys, or name the right key (ssh.identity_files, IdentityFile)", k.user, k.addr, notes)
	case strings.Contains(err.Error(), "knownhosts:"), strings.Contains(err.Error(), "no common algorithm"):
		return fmt.Errorf("log in to %s: %w", k.addr, err)
	}
	return &LostError{Host: k.name, Err: fmt.Errorf("log in to %s: %w", k.addr, err)}
}

// watchAlive closes a connection whose other end does not answer.
func watchAlive(client *gossh.Client) {
	gone := make(chan struct{})
	go func() {
		_ = client.Wait() // why it ended is told to whoever used it
		close(gone)
	}()
	ticker := time.NewTicker(aliveEvery)
	defer ticker.Stop()
	for {
		select {
		case <-gone:
			return
		case <-ticker.C:
		}
		answered := make(chan struct{})
		go func() {
			_, _, _ = client.SendRequest("keepalive@openssh.com", true, nil) // a refusal is an answer
			close(answered)
		}()
		deadline := time.NewTimer(aliveWithin)
		select {
		case <-gone:
		case <-answered:
		case <-deadline.C:
			_ = client.Close() // nobody is there to hear it
		}
		deadline.Stop()
	}
}
