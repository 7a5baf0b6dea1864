package dbfile

import "os"

// writingPiece is how much of a file is left to the kernel's own time before it is told to write that to disk.
const writingPiece = 16 << 20

// A Writing has the kernel begin to write a file to disk while it still grows, so that the disk works meanwhile and the sync at the
// end finds little left. It is only a hint: nothing that it does can fail, and nothing that it did may be relied on.
type Writing struct {
	from int64 // up to where the kernel was told
	to   int64 // up to where the file was written
	told chan [2]int64
	done chan struct{}
}

// NewWriting begins with an empty file. End it before the file is closed.
func NewWriting(f *os.File) *Writing {
	w := &Writing{told: make(chan [2]int64, 1), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		for part := range w.told {
			startWriting(f, part[0], part[1])
		}
	}()
	return w
}

// Advance says that n bytes more were written to the file's end, or, if n is negative, that so many will be written again. It does not wait for the disk.
func (w *Writing) Advance(n int64) {
	w.to += n
	w.from = min(w.from, w.to)
	if w.to-w.from < writingPiece {
		return
	}
	select {
	case w.told <- [2]int64{w.from, w.to - w.from}:
		w.from = w.to
	default: // the disk is behind
	}
}

// End returns when the kernel has been told all that it will be told.
func (w *Writing) End() {
	close(w.told)
	<-w.done
}
