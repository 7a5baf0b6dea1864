package ssh

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/requorum/requorum/restore"
)

// waitingHost works until its context ends.
type waitingHost struct {
	fakeHost
	began chan struct{}
	ended chan error
}

func (h waitingHost) Apply(ctx context.Context, _ restore.ApplyRequest) error {
	close(h.began)
	<-ctx.Done()
	h.ended <- context.Cause(ctx)
	return context.Cause(ctx)
}

// TestUnheard shows that an agent ends what it does when its coordinator falls silent or goes away, and not while beats come.
func TestUnheard(t *testing.T) {
	for name, vanish := range map[string]func(in *io.PipeWriter){
		"silence": func(*io.PipeWriter) {},
		"the end": func(in *io.PipeWriter) { in.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, in := io.Pipe()
				host := waitingHost{began: make(chan struct{}), ended: make(chan error, 1)}
				served := make(chan error, 1)
				go func() { served <- Serve(t.Context(), r, io.Discard, host, "test") }()
				f := &frames{w: in}
				if err := f.writeJSON(frameRequest, request{Apply: &restore.ApplyRequest{Action: restore.ActStop}}); err != nil {
					t.Fatal(err)
				}
				<-host.began
				for range 10 { // for longer than silence
					time.Sleep(beatEvery)
					if err := f.write(frameBeat, nil); err != nil {
						t.Fatal(err)
					}
				}
				select {
				case err := <-host.ended:
					t.Fatalf("it ended although the coordinator is there: %v", err)
				default:
				}
				begun := time.Now()
				vanish(in)
				if err := <-host.ended; !errors.Is(err, errUnheard) {
					t.Errorf("it ended with %v", err)
				}
				if took := time.Since(begun); took > silence {
					t.Errorf("it worked on for %s", took)
				}
				<-served
				in.Close()
				synctest.Wait()
			})
		})
	}
}

func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	w := &frames{w: &b}
	if err := errors.Join(w.write(frameBeat, nil), w.write(frameData, []byte("piece"))); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte{'d', 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{'d', 0, 0, 0, 9, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		read := 0
		for {
			_, payload, err := readFrame(r, nil)
			if err != nil {
				if errors.Is(err, io.EOF) && read != len(in) {
					t.Fatalf("an end after %d of %d bytes is no end between two frames", read, len(in))
				}
				return
			}
			if read += 5 + len(payload); read > len(in) {
				t.Fatalf("%d bytes were read of %d", read, len(in))
			}
		}
	})
}
