package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sync/errgroup"
)

// RunChild is the first statement of main and of every TestMain in a program that calls Start or HashOf. In the child it is the server and
// ends the process; elsewhere it returns at once.
func RunChild() {
	if os.Getenv(childVariable) != childRole {
		return
	}
	if err := obey(os.NewFile(3, "commands"), os.NewFile(4, "answers")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// obey is the child.
func obey(in io.Reader, out io.Writer) error {
	commands, answers := json.NewDecoder(in), json.NewEncoder(out)
	var first command
	if err := commands.Decode(&first); err != nil {
		return fmt.Errorf("read the options: %w", err)
	}
	if first.Start == nil {
		return fmt.Errorf("the first command is %+v, not to start", first)
	}
	e, err := open(*first.Start)
	if err != nil {
		return answers.Encode(answer{Error: err.Error()})
	}
	defer e.Close()
	var a answer
	if err := serve(e, first, &a); err != nil {
		a.Error = err.Error()
	}
	if err := answers.Encode(a); err != nil || a.Error != "" {
		return err
	}
	obeyed := make(chan error, 1)
	go func() { obeyed <- carryOut(commands, answers, e) }()
	ended := make(chan error, 1)
	go func() { ended <- wait(context.Background(), e, *first.Start) }()
	select {
	case err = <-obeyed:
	case err = <-ended:
	}
	return err
}

// serve waits until the server serves. What it is to be looked at for is looked at meanwhile: it has read its database, and nothing of that
// changes while a cluster of one elects.
func serve(e *embed.Etcd, first command, a *answer) error {
	var g errgroup.Group
	if first.Look != nil {
		g.Go(func() error {
			s, err := look(context.Background(), e, *first.Look)
			a.Served = &s
			return err
		})
	}
	return errors.Join(ready(context.Background(), e), g.Wait())
}

// carryOut answers commands until told to stop, or until the parent is gone.
func carryOut(commands *json.Decoder, answers *json.Encoder, e *embed.Etcd) error {
	for {
		var c command
		var a answer
		switch err := commands.Decode(&c); {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read a command: %w", err)
		}
		switch {
		case c.Stop:
			return answers.Encode(a)
		case c.Look != nil:
			s, err := look(context.Background(), e, *c.Look)
			if err != nil {
				a.Error = err.Error()
			}
			a.Served = &s
		default:
			a.Error = fmt.Sprintf("unknown command %+v", c)
		}
		if err := answers.Encode(a); err != nil {
			return err
		}
	}
}
