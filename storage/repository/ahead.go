package repository

import "io"

// An ahead reads in a goroutine of its own, in pieces that are worth a switch of goroutines, while what it has read is worked on. It is
// read by one goroutine, which ends it.
type ahead struct {
	pieces, spare chan []byte
	stop, stopped chan struct{}
	err           error // why there are no more pieces

	piece, rest []byte // the one that is being read
}

func readAhead(r io.Reader) *ahead {
	a := &ahead{pieces: make(chan []byte), spare: make(chan []byte, 2), stop: make(chan struct{}), stopped: make(chan struct{})}
	a.spare <- make([]byte, pieceSize)
	a.spare <- make([]byte, pieceSize)
	go a.run(r)
	return a
}

func (a *ahead) run(r io.Reader) {
	defer close(a.stopped)
	defer close(a.pieces)
	for a.err == nil {
		var buf []byte
		select {
		case buf = <-a.spare:
		case <-a.stop:
			return
		}
		n := 0
		for n < len(buf) && a.err == nil {
			var m int
			m, a.err = r.Read(buf[n:])
			n += m
		}
		select {
		case a.pieces <- buf[:n]:
		case <-a.stop:
			return
		}
	}
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.piece != nil {
			a.spare <- a.piece[:pieceSize]
		}
		var ok bool
		if a.piece, ok = <-a.pieces; !ok {
			return 0, a.err
		}
		a.rest = a.piece
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// end returns when nothing is read any more.
func (a *ahead) end() {
	close(a.stop)
	<-a.stopped
}
