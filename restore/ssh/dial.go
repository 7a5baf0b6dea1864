package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
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
	for i, hop := range append(slices.Clone(s.jumps), s) {
		err := c.extend(ctx, hop)
		if err == nil {
			continue
		}
		c.close()
		was := lost(err)
		err = stripLost(err)
		if len(hop.passed) > 0 {
			err = fmt.Errorf("%w (the SSH configuration also says %s, which requorum does not follow)", err, strings.Join(hop.passed, ", "))
		}
		if i < len(s.jumps) {
			err = fmt.Errorf("jump host %s: %w", hop.name, err)
		}
		if was {
			err = &LostError{Host: s.name, Err: err}
		}
		return nil, err
	}
	return c, nil
}

// A chain is a login on a machine, and on those on the way to it, the last one being the machine itself.
type chain struct {
	clients []*gossh.Client
	last    settings // of the last one
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
	conn, err := c.dial(ctx, s)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // which ends the handshake
	nc, channels, requests, err := gossh.NewClientConn(conn, s.known, &gossh.ClientConfig{
		User: s.user, Auth: []gossh.AuthMethod{gossh.PublicKeys(signers...)},
		HostKeyCallback: ledger.verify, HostKeyAlgorithms: ledger.algorithms(), ClientVersion: "SSH-2.0-requorum"})
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		err = keys.explain(ctx, err)
		if p, ok := conn.(*proxied); ok {
			err = p.explain(err)
		}
		_ = conn.Close() // it has not been used
		return err
	}
	client := gossh.NewClient(nc, channels, requests)
	c.clients, c.last = append(c.clients, client), s
	go watchAlive(client)
	return nil
}

// dial connects to the next machine, from here, by a command of the configuration, or from the last one of the chain.
func (c *chain) dial(ctx context.Context, s settings) (net.Conn, error) {
	if s.command != "" {
		return runProxy(s.command)
	}
	if len(c.clients) == 0 {
		conn, err := (&net.Dialer{KeepAlive: aliveEvery}).DialContext(ctx, "tcp", s.addr)
		if err != nil {
			return nil, &LostError{Host: s.name, Err: fmt.Errorf("connect: %w", err)}
		}
		return conn, nil
	}
	conn, err := c.client().DialContext(ctx, "tcp", s.addr)
	var refused *gossh.OpenChannelError
	switch {
	case err == nil:
		return conn, nil
	case errors.As(err, &refused) && refused.Reason == gossh.Prohibited:
		return nil, fmt.Errorf("jump host %s lets user %s in, but does not forward to %s: its sshd_config must allow that (AllowTcpForwarding yes or local, no DisableForwarding, and PermitOpen, if set, with %s), "+
			"and so must the key's line in authorized_keys (no restrict or no-port-forwarding)", c.last.name, c.last.user, s.addr, s.addr)
	case errors.As(err, &refused):
		return nil, &LostError{Host: s.name, Err: fmt.Errorf("connect: jump host %s does not reach %s: %s", c.last.name, s.addr, refused.Message)}
	case ctx.Err() != nil:
		return nil, &LostError{Host: s.name, Err: fmt.Errorf("connect: jump host %s does not reach %s within %s", c.last.name, s.addr, s.timeout)}
	}
	return nil, &LostError{Host: s.name, Err: fmt.Errorf("connect through jump host %s: %w", c.last.name, err)}
}

// explain turns the error of a handshake into one that says what to do.
func (k *keyring) explain(ctx context.Context, err error) error {
	notes := ""
	if len(k.notes) > 0 {
		notes = "; " + strings.Join(k.notes, "; ")
	}
	var wrong *HostKeyError
	switch {
	case errors.As(err, &wrong):
		return wrong
	case ctx.Err() != nil:
		return &LostError{Host: k.name, Err: fmt.Errorf("log in to %s: no answer within %s", k.addr, k.timeout)}
	case strings.Contains(err.Error(), "Too many authentication failures"):
		return fmt.Errorf("%s gave up on user %s before all of the %d keys there are here had been tried: name the right one (ssh.identity_files, or IdentityFile, which is tried first; its public half is enough where an SSH agent has the secret one)%s",
			k.addr, k.user, k.tried, notes)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("user %s is not let in to %s with any key there is here%s: add the public key to that user's authorized_keys, or name the right key (ssh.identity_files, IdentityFile)", k.user, k.addr, notes)
	case errors.Is(err, errCertificate), strings.Contains(err.Error(), "no common algorithm"):
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
