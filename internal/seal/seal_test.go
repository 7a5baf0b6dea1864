package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"filippo.io/age"
)

func newKey(t testing.TB) (age.Recipient, age.Identity) {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	to, err := ParseRecipient(k.Recipient)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIdentities([]byte("# a comment\n" + k.Identity + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return to, ids[0]
}

func sealed(t testing.TB, data []byte, to ...age.Recipient) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := Seal(&b, to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func open(b []byte, encrypted bool, ids ...age.Identity) ([]byte, error) {
	r, err := Open(bytes.NewReader(b), ids, encrypted)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// jsonLike is what etcd databases mostly hold: about n bytes of records of about 2 kB with some entropy.
func jsonLike(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-%d","namespace":"team-%d","uid":"%016x","labels":{"app":"web","tier":"front"},"items":[`, i, r.IntN(50), r.Uint64())
		for j := range 12 {
			fmt.Fprintf(&b, `{"name":"container-%d","image":"app/service:%d.%d","digest":"%016x%016x","ready":%t,"restarts":%d},`, j, r.IntN(9), r.IntN(99), r.Uint64(), r.Uint64(), r.IntN(2) == 0, r.IntN(7))
		}
		b.WriteString(`]}}`)
	}
	return b.Bytes()[:n]
}

func TestRoundTrip(t *testing.T) {
	to, id := newKey(t)
	_, other := newKey(t)
	for _, data := range [][]byte{nil, []byte("x"), jsonLike(300_000), jsonLike(9 << 20), make([]byte, 20<<20)} {
		for _, recipients := range [][]age.Recipient{nil, {to}} {
			b := sealed(t, data, recipients...)
			got, err := open(b, recipients != nil, other, id)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %d recipients: got %d bytes back, %v", len(data), len(recipients), len(got), err)
			}
		}
	}
}

func TestSeveralRecipients(t *testing.T) {
	to1, id1 := newKey(t)
	to2, id2 := newKey(t)
	b := sealed(t, []byte("both"), to1, to2)
	for i, id := range []age.Identity{id1, id2} {
		if got, err := open(b, true, id); err != nil || string(got) != "both" {
			t.Errorf("recipient %d: %q, %v", i+1, got, err)
		}
	}
}

// TestTools opens what Seal made as the documentation says it can be done without requorum.
func TestTools(t *testing.T) {
	for _, tool := range []string{"age", "zstd"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	to, err := ParseRecipients([]string{k.Recipient})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	data := jsonLike(5 << 20)
	file, key := filepath.Join(dir, "db.zst.age"), filepath.Join(dir, "key")
	if err := errors.Join(os.WriteFile(file, sealed(t, data, to...), 0o600), os.WriteFile(key, []byte(k.Identity+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("sh", "-c", `age -d -i "$1" "$2" | zstd -d`, "sh", key, file).Output()
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("age -d | zstd -d gave %d bytes, %v; want the %d sealed", len(got), err, len(data))
	}
}

func TestDamage(t *testing.T) {
	to, id := newKey(t)
	data := jsonLike(150_000)
	for _, encrypted := range []bool{false, true} {
		var recipients []age.Recipient
		if encrypted {
			recipients = []age.Recipient{to}
		}
		good := sealed(t, data, recipients...)
		refused := func(what string, b []byte) {
			t.Helper()
			got, err := open(b, encrypted, id)
			if errors.Is(err, ErrDamaged) || err != nil && encrypted && errors.Is(err, ErrCannotDecrypt) {
				return // a flipped bit in a recipient's stanza looks like somebody else's
			}
			t.Errorf("encrypted %t, %s: %d bytes and %v, want ErrDamaged", encrypted, what, len(got), err)
		}
		r := rand.New(rand.NewPCG(3, 4))
		for _, n := range append([]int{0, 1, 3, 4, 20, 200, len(good) / 2, len(good) - 5, len(good) - 4, len(good) - 1}, r.Perm(len(good))[:50]...) {
			refused(fmt.Sprintf("cut off after %d of %d", n, len(good)), good[:n])
		}
		for _, tail := range []string{"\x00", "x", "abc", "\x00\x00\x00\x00", "garbage", strings.Repeat("\x00", 70_000)} {
			refused(fmt.Sprintf("%d bytes added", len(tail)), append(bytes.Clone(good), tail...))
		}
		for _, i := range append(r.Perm(len(good))[:100], 0, 1, len(good)-1) {
			b := bytes.Clone(good)
			b[i] ^= 1 << r.IntN(8)
			got, err := open(b, encrypted, id)
			// Of plain zstd one bit of the frame header may mean nothing; the contents are then right.
			if err == nil && (encrypted || !bytes.Equal(got, data)) {
				t.Errorf("encrypted %t: bit flipped at %d of %d: accepted", encrypted, i, len(good))
			}
		}
	}
}

func TestWrongKind(t *testing.T) {
	to, id := newKey(t)
	_, other := newKey(t)
	for _, test := range []struct {
		name      string
		b         []byte
		encrypted bool
		ids       []age.Identity
		want      error
		words     string
	}{
		{"another identity", sealed(t, []byte("x"), to), true, []age.Identity{other}, ErrCannotDecrypt, "none of the 1 identities"},
		{"no identity", sealed(t, []byte("x"), to), true, nil, ErrCannotDecrypt, "no identity was given"},
		{"plain, should be encrypted", sealed(t, []byte("x")), true, []age.Identity{id}, ErrOtherKind, "is not encrypted"},
		{"encrypted, should be plain", sealed(t, []byte("x"), to), false, nil, ErrOtherKind, "is encrypted"},
		{"something else", []byte("hello, world, this is text"), false, nil, ErrDamaged, "zstd"},
		{"something else, encrypted", []byte("hello, world, this is text"), true, []age.Identity{id}, ErrDamaged, "age"},
	} {
		_, err := open(test.b, test.encrypted, test.ids...)
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v, want %v with %q", test.name, err, test.want, test.words)
		}
		if errors.Is(err, ErrOtherKind) && !errors.Is(err, ErrDamaged) || errors.Is(err, ErrOtherKind) != errors.Is(test.want, ErrOtherKind) {
			t.Errorf("%s: %v: another kind is damage, and only that is", test.name, err)
		}
		if errors.Is(err, ErrDamaged) && errors.Is(err, ErrCannotDecrypt) {
			t.Errorf("%s: %v is both kinds of error", test.name, err)
		}
	}
	var inner bytes.Buffer
	w, err := age.Encrypt(&inner, to)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := open(inner.Bytes(), true, id); !errors.Is(err, ErrDamaged) {
		t.Errorf("nothing, encrypted: %v, want ErrDamaged", err)
	}
}

// TestSourceError: an error of the store is not taken for damage.
func TestSourceError(t *testing.T) {
	to, id := newKey(t)
	broken := errors.New("connection reset")
	good := sealed(t, jsonLike(400_000), to)
	for _, n := range []int{0, 5, 100, 250, 100_000} {
		r, err := Open(io.MultiReader(bytes.NewReader(good[:min(n, len(good))]), iotest.ErrReader(broken)), []age.Identity{id}, true)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			r.Close()
		}
		if !errors.Is(err, broken) || errors.Is(err, ErrDamaged) {
			t.Errorf("source broke after %d bytes: %v, want its own error", n, err)
		}
	}
}

type failingWriter struct{ after int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.after -= len(p); w.after < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestSealReportsWriteErrors(t *testing.T) {
	to, _ := newKey(t)
	for _, after := range []int{0, 100, 100_000} {
		for _, recipients := range [][]age.Recipient{nil, {to}} {
			w, err := Seal(&failingWriter{after}, recipients)
			if err == nil {
				_, err = w.Write(jsonLike(3 << 20))
				if cerr := w.Close(); err == nil {
					err = cerr
				}
			}
			if !errors.Is(err, io.ErrClosedPipe) {
				t.Errorf("writer failed after %d bytes, %d recipients: %v", after, len(recipients), err)
			}
		}
	}
}

// TestMemory: what is held at a time does not grow with what passes through.
func TestMemory(t *testing.T) {
	to, id := newKey(t)
	chunk := jsonLike(1 << 20)
	peak := func(mib int) int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		before, highest := m.HeapAlloc, m.HeapAlloc
		r, w := io.Pipe()
		go func() {
			s, err := Seal(w, []age.Recipient{to})
			for i := 0; err == nil && i < mib; i++ {
				_, err = s.Write(chunk)
				runtime.ReadMemStats(&m)
				highest = max(highest, m.HeapAlloc)
			}
			if err == nil {
				err = s.Close()
			}
			w.CloseWithError(err)
		}()
		o, err := Open(r, []age.Identity{id}, true)
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		if n, err := io.Copy(io.Discard, o); err != nil || n != int64(mib)<<20 {
			t.Fatalf("%d bytes came through, %v; want %d MiB", n, err, mib)
		}
		return int(highest-before) >> 20
	}
	small, large := peak(16), peak(96)
	t.Logf("held %d MiB for 16 MiB, %d MiB for 96 MiB", small, large)
	if large > 48 {
		t.Errorf("held %d MiB for 16 MiB and %d MiB for 96 MiB: more than is promised", small, large)
	}
}

func FuzzOpen(f *testing.F) {
	k, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed(f, []byte("some text")), false)
	f.Add(sealed(f, jsonLike(3000)), false)
	f.Add(sealed(f, jsonLike(3000), k.Recipient()), true)
	f.Add([]byte(ageMagic+"v1\n-> X25519 abc\n--- x\n"), true)
	f.Add(append(bytes.Clone(zstdMagic), 0xff, 0xff, 0xff, 0xff), false)
	f.Fuzz(func(t *testing.T, b []byte, encrypted bool) {
		r, err := Open(bytes.NewReader(b), []age.Identity{k}, encrypted)
		if err == nil {
			_, err = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
			r.Close()
		}
		if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrCannotDecrypt) {
			t.Errorf("%v is neither kind of error", err)
		}
	})
}

func BenchmarkSeal(b *testing.B) {
	to, _ := newKey(b)
	data := jsonLike(64 << 20)
	for name, recipients := range map[string][]age.Recipient{"zstd": nil, "zstd+age": {to}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				w, err := Seal(io.Discard, recipients)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.Write(data); err != nil {
					b.Fatal(err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	to, id := newKey(b)
	data := jsonLike(64 << 20)
	for name, recipients := range map[string][]age.Recipient{"zstd": nil, "zstd+age": {to}} {
		sealedData := sealed(b, data, recipients...)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				r, err := Open(bytes.NewReader(sealedData), []age.Identity{id}, recipients != nil)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	}
}
