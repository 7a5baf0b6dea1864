package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/klauspost/compress/zstd"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// Whatever happened to an object in the store, verify and restore say so and refuse: neither a wrong database nor half of one is ever
// opened, and the members stay as they are.
func TestDamagedObjects(t *testing.T) {
	t.Parallel()
	s := newSite(t, siteOptions{etcd: etcdtest.Options{Members: 1}})
	s.fill(200, 2000)
	first := s.backup()
	etcdtest.Put(t, s.Client(t), "/data/other", "another database")
	second := s.backup()
	s.lose()

	data := func(b taken) string { return filepath.Join(s.storeDir(), "dcs", b.Data.Key) }
	other, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		code   int
		words  string
		damage func(t *testing.T, stored []byte, m *manifest) []byte
	}{
		{"truncated", command.ExitVerify, "bytes", func(_ *testing.T, b []byte, _ *manifest) []byte { return b[:len(b)/2] }},
		{"bit flipped", command.ExitVerify, "sha256", func(_ *testing.T, b []byte, _ *manifest) []byte { return flip(b, len(b)/2) }},
		{"longer", command.ExitVerify, "bytes", func(_ *testing.T, b []byte, _ *manifest) []byte { return append(b, 0) }},
		{"empty", command.ExitVerify, "bytes", func(*testing.T, []byte, *manifest) []byte { return nil }},
		{"swapped with another backup's", command.ExitVerify, "", func(t *testing.T, _ []byte, _ *manifest) []byte { return read(t, data(first)) }},
		{"encrypted to another key", command.ExitVerify, "encrypted to others than the manifest says", func(t *testing.T, b []byte, m *manifest) []byte {
			return m.agree(sealTo(t, other.Recipient(), s.open(b)))
		}},
		{"another database, its manifest altered to agree in bytes", command.ExitVerify, "revision", func(t *testing.T, _ []byte, m *manifest) []byte {
			raw := s.open(read(t, data(first)))
			m.raw(raw)
			return m.agree(sealTo(t, s.key.Recipient(), raw))
		}},
		{"pages that point far outside, all checksums right", command.ExitVerify, "structure", func(t *testing.T, b []byte, m *manifest) []byte {
			raw := wild(t, s.open(b))
			m.raw(raw)
			return m.agree(sealTo(t, s.key.Recipient(), raw))
		}},
		{"a database that lacks its end, all checksums right", command.ExitVerify, "", func(t *testing.T, b []byte, m *manifest) []byte {
			raw := s.open(b)
			raw = trailer(raw[:len(raw)/2/4096*4096])
			m.raw(raw)
			return m.agree(sealTo(t, s.key.Recipient(), raw))
		}},
		{"no database at all", command.ExitVerify, "", func(t *testing.T, b []byte, m *manifest) []byte {
			raw := trailer(bytes.Repeat([]byte("not a database. "), 4096))
			m.raw(raw)
			return m.agree(sealTo(t, s.key.Recipient(), raw))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			manifestFile := filepath.Join(filepath.Dir(data(second)), "manifest.json")
			wholeManifest, whole := read(t, manifestFile), read(t, data(second))
			var m manifest
			if err := json.Unmarshal(wholeManifest, &m); err != nil {
				t.Fatal(err)
			}
			damaged := c.damage(t, bytes.Clone(whole), &m)
			changed, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			write(t, manifestFile, changed)
			write(t, data(second), damaged)
			defer func() {
				write(t, manifestFile, wholeManifest)
				write(t, data(second), whole)
				s.unmark(t)
			}()
			sub := *s
			sub.t = t
			sub.run("restore", "dcs", "--yes", "--at", second.ID).Exits(t, c.code, c.words)
			sub.run("verify", "dcs", second.ID).Exits(t, c.code, c.words)
			if s.Members[0].Running() {
				t.Error("a member was started")
			}
			if found, _ := filepath.Glob(s.Members[0].DataDir + "*"); len(found) > 0 {
				t.Errorf("the refused restore left %q", found)
			}
			var failed bool
			for _, l := range sub.list() {
				failed = failed || l.ID == second.ID && l.Failed
			}
			if failed != (c.code == command.ExitVerify) {
				t.Errorf("list says failed: %v; a key that does not fit is no verdict, a damaged object is one", failed)
			}
			if left := s.spooled(); len(left) > 0 {
				t.Errorf("the spool holds %q", left)
			}
		})
	}

	s.run("verify", "dcs", second.ID).Exits(t, command.ExitOK) // the test damaged what it meant to, and only that
	s.file("age.key", other.String()+"\n")
	s.run("verify", "dcs", second.ID).Exits(t, command.ExitDecrypt, "identity_file")
	s.run("restore", "dcs", "--yes").Exits(t, command.ExitDecrypt, "identity_file")
}

// A manifest as far as the tests forge it.
type manifest map[string]any

// raw makes the manifest agree with other raw bytes.
func (m manifest) raw(b []byte) {
	data := m["data"].(map[string]any)
	data["bytes"], data["sha256"] = len(b), sum(b)
}

// agree makes the manifest agree with other stored bytes.
func (m manifest) agree(stored []byte) []byte {
	data := m["data"].(map[string]any)
	data["stored_bytes"], data["stored_sha256"] = len(stored), sum(stored)
	return stored
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func flip(b []byte, at int) []byte {
	b[at] ^= 0x10
	return b
}

// open unseals a stored object.
func (s *site) open(stored []byte) []byte {
	s.t.Helper()
	plain, err := age.Decrypt(bytes.NewReader(stored), s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	z, err := zstd.NewReader(plain)
	if err != nil {
		s.t.Fatal(err)
	}
	defer z.Close()
	raw, err := io.ReadAll(z)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// sealTo seals a database as requorum does.
func sealTo(t *testing.T, to age.Recipient, raw []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	envelope, err := age.Encrypt(&b, to)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewWriter(envelope)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{second(z.Write(raw)), z.Close(), envelope.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func second(_ int, err error) error { return err }

// trailer appends the sha256 that ends a snapshot.
func trailer(db []byte) []byte {
	s := sha256.Sum256(db)
	return append(bytes.Clone(db), s[:]...)
}

// wild makes every branch element of a snapshot's pages point far outside of the file, and leaf elements far outside of their page,
// under a correct trailer.
func wild(t *testing.T, snapshot []byte) []byte {
	t.Helper()
	const size, header, branch, leaf = 4096, 16, 0x01, 0x02
	db := bytes.Clone(snapshot[:len(snapshot)-sha256.Size])
	changed := 0
	for at := 2 * size; at+size <= len(db); at += size {
		page := db[at : at+size]
		flags, count := binary.LittleEndian.Uint16(page[8:]), int(binary.LittleEndian.Uint16(page[10:]))
		for i := range min(count, (size-header)/16) {
			element := page[header+16*i:]
			switch flags {
			case branch:
				binary.LittleEndian.PutUint64(element[8:], 1<<40)
			case leaf:
				binary.LittleEndian.PutUint32(element[4:], 1<<30)
			default:
				continue
			}
			changed++
		}
	}
	if changed == 0 {
		t.Fatal("no page was found to damage")
	}
	return trailer(db)
}

// unmark removes verdicts.
func (s *site) unmark(t *testing.T) {
	t.Helper()
	for _, key := range s.snapshots() {
		if name := filepath.Base(key); strings.HasPrefix(name, "failed-") || strings.HasPrefix(name, "verified-") {
			if err := os.Remove(filepath.Join(s.storeDir(), key)); err != nil {
				t.Fatal(err)
			}
		}
	}
}
