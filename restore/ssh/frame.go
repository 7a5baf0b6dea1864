package ssh

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"

	"github.com/requorum/requorum/restore"
)

// greeting is the line that an agent begins with. What a login shell prints before it is passed over.
const greeting = "requorum host agent 1\n"

// A frame is one message between a coordinator and its agent on a host: a kind, a length, and what it carries.
type frame byte

const (
	frameRequest frame = 'q' // coordinator: the request, as JSON
	frameBeat    frame = 'b' // coordinator: it is still there
	frameOffset  frame = 'o' // coordinator: where the database goes on, as JSON
	frameData    frame = 'd' // a piece of a database, a zstd frame of at most pieceSize bytes unpacked
	frameEnd     frame = 'e' // the database ends here
	frameHello   frame = 'h' // agent: who it is, as JSON
	framePart    frame = 'p' // agent: what it has of the database, as JSON
	frameResult  frame = 'r' // agent: the outcome, as JSON
)

const (
	pieceSize = 1 << 20
	// frameLimit is above what any frame needs: plans of many agents are the largest.
	frameLimit = 64 << 20
)

// request is what a coordinator asks for; exactly one field is set.
type request struct {
	Inspect *restore.InspectRequest `json:"inspect,omitempty"`
	Apply   *restore.ApplyRequest   `json:"apply,omitempty"`
	Stage   *restore.StageRequest   `json:"stage,omitempty"`
	Fetch   *restore.FetchRequest   `json:"fetch,omitempty"`
}

func (r request) String() string {
	switch {
	case r.Inspect != nil:
		return "inspect " + r.Inspect.Member.Name
	case r.Apply != nil:
		return string(r.Apply.Action) + " " + r.Apply.Member.Name
	case r.Stage != nil:
		return "stage " + r.Stage.Member.Name
	case r.Fetch != nil:
		return "fetch " + r.Fetch.Member.Name
	}
	return "nothing"
}

// result is the outcome of a request.
type result struct {
	State *restore.State     `json:"state,omitempty"`
	Error string             `json:"error,omitempty"`
	Host  *restore.HostError `json:"host,omitempty"`     // if the error is one
	None  bool               `json:"missing,omitempty"`  // the error is fs.ErrNotExist
	Over  bool               `json:"canceled,omitempty"` // it ended because the coordinator was not heard any more
}

// hello is what an agent says of itself.
type hello struct {
	Version string `json:"version"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

// part is what an agent has of a database from an earlier attempt.
type part struct {
	Size     int64  `json:"size"`
	Checksum string `json:"checksum"`
}

// frames writes frames, each whole. It is safe for concurrent use.
type frames struct {
	mu    sync.Mutex
	w     io.Writer
	ended bool
}

// end closes the writer, after what is being written. Nothing is written after it.
func (f *frames) end(w io.Closer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended {
		f.ended = true
		_ = w.Close() // the other side may be gone
	}
}

func (f *frames) write(kind frame, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return io.ErrClosedPipe
	}
	head := [5]byte{byte(kind)}
	binary.BigEndian.PutUint32(head[1:], uint32(len(payload)))
	if _, err := f.w.Write(head[:]); err != nil || len(payload) == 0 {
		return err
	}
	_, err := f.w.Write(payload)
	return err
}

func (f *frames) writeJSON(kind frame, v any) error {
	payload, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return f.write(kind, payload)
}

// readFrame reads one frame, into buf if that is large enough. The end between two frames is io.EOF.
func readFrame(r io.Reader, buf []byte) (frame, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:1]); err != nil {
		return 0, nil, err
	}
	if _, err := io.ReadFull(r, head[1:]); err != nil {
		return 0, nil, cut(err)
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > frameLimit {
		return 0, nil, fmt.Errorf("a message of %d bytes: the other side does not speak requorum", n)
	}
	if int(n) > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return frame(head[0]), buf, cut(err)
}

// cut makes an end in the middle of a frame what it is.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
