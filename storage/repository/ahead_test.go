package repository

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestReadAhead reads what comes in all kinds of pieces, and how it ends.
func TestReadAhead(t *testing.T) {
	broken := errors.New("broken")
	content := bytes.Repeat([]byte("0123456789abcdef"), 3*pieceSize/16+5)
	for name, r := range map[string]io.Reader{
		"whole":         bytes.NewReader(content),
		"by bytes":      iotest.OneByteReader(bytes.NewReader(content[:pieceSize+1])),
		"end with data": iotest.DataErrReader(bytes.NewReader(content)),
		"exact pieces":  bytes.NewReader(content[:2*pieceSize]),
		"nothing":       strings.NewReader(""),
		"broken":        io.MultiReader(bytes.NewReader(content[:pieceSize+7]), iotest.ErrReader(broken)),
	} {
		t.Run(name, func(t *testing.T) {
			a := readAhead(r)
			got, err := io.ReadAll(a)
			a.end()
			want, wantErr := content, error(nil)
			switch name {
			case "by bytes":
				want = content[:pieceSize+1]
			case "exact pieces":
				want = content[:2*pieceSize]
			case "nothing":
				want = nil
			case "broken":
				want, wantErr = content[:pieceSize+7], broken
			}
			if !bytes.Equal(got, want) || !errors.Is(err, wantErr) {
				t.Errorf("%d bytes, %v; want %d, %v", len(got), err, len(want), wantErr)
			}
		})
	}
}

// TestReadAheadEnds ends in the middle: nothing is read after that.
func TestReadAheadEnds(t *testing.T) {
	read := 0
	a := readAhead(readerFunc(func(p []byte) (int, error) { // without end
		read += len(p)
		return len(p), nil
	}))
	if _, err := io.ReadFull(a, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	a.end()
	if before := read; before > 3*pieceSize {
		t.Errorf("%d bytes were read ahead of 10", before)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
