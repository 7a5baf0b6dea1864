package backup_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/storage/catalog"
)

func TestImportAndExport(t *testing.T) {
	servers := etcdtest.StartCluster(t, etcdtest.Options{Members: 1})
	admin := servers.Client(t)
	etcdtest.MustFill(t, admin, etcdtest.FillOptions{Keys: 300})
	etcdtest.Lease(t, admin, time.Hour, "/leased")
	b := newBed(t, servers)
	live := b.take(t)
	dir := t.TempDir()

	saved := filepath.Join(dir, "saved.db")
	if out, err := exec.Command(etcdtest.Binary(t, "etcdctl", etcdtest.Latest), "--endpoints", servers.Endpoints()[0], "snapshot", "save", saved).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	made := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	if err := os.Chtimes(saved, made, made); err != nil {
		t.Fatal(err)
	}
	servers.Stop(t)
	raw := filepath.Join(servers.Members[0].DataDir, "member", "snap", "db")
	rawBefore, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}

	for name, path := range map[string]string{"snapshot of etcdctl": saved, "raw database": raw} {
		t.Run(name, func(t *testing.T) {
			r, err := backup.Import(t.Context(), path, b.options())
			if err != nil {
				t.Fatal(err)
			}
			if r.Source != catalog.SourceImport || r.HashKV.Hash != live.HashKV.Hash || r.Revision != live.Revision || r.Keys != 301 || r.Line == live.Line {
				t.Errorf("imported as %+v", r.Manifest)
			}
			if path == saved && !r.Time.Equal(made.UTC()) {
				t.Errorf("its time is %s, the file's %s", r.Time, made)
			}
			if v, err := b.verify(t, r.ID, backup.ScopeFull); err != nil || !v.OK {
				t.Errorf("%+v, %v", v, err)
			}
			if s, _, err := b.repo.Find(t.Context(), "latest", time.Now()); err != nil || s.ID == r.ID {
				t.Errorf("latest is %s, %v: an import must be named to be chosen", s.ID, err)
			}
			b.noSpool(t)

			// And out again, as something that etcdutl takes.
			out := filepath.Join(t.TempDir(), "out.db")
			if err := backup.Export(t.Context(), b.listed(t, r.ID), out, backup.ExportOptions{Repository: b.repo}); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(out); err != nil || info.Mode().Perm() != 0o600 || info.Size() != r.Data.Bytes {
				t.Errorf("exported as %v, %v", info, err)
			}
			restored := filepath.Join(t.TempDir(), "restored")
			if text, err := exec.Command(etcdtest.Binary(t, "etcdutl", etcdtest.Latest), "snapshot", "restore", out, "--data-dir", restored).CombinedOutput(); err != nil {
				t.Errorf("etcdutl does not take it: %v: %s", err, text)
			}
		})
	}
	if after, err := os.ReadFile(raw); err != nil || string(after) != string(rawBefore) {
		t.Errorf("import changed the file it was given (%v)", err)
	}
	imports := 0
	for _, l := range lines(t, b) {
		if l.Source == catalog.LineImport && l.Line != live.Line {
			imports++
		}
	}
	if imports != 2 {
		t.Errorf("lines %+v, want two of imports", lines(t, b))
	}

	t.Run("what is no database", func(t *testing.T) {
		before := len(lines(t, b))
		data, err := os.ReadFile(saved)
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range map[string][]byte{"empty": nil, "text": []byte("hello"), "truncated": data[:len(data)-5000], "flipped": flip(data)} {
			path := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := backup.Import(t.Context(), path, b.options())
			var damaged *dbfile.CheckError
			if !errors.As(err, &damaged) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := backup.Import(t.Context(), t.TempDir(), b.options()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
			t.Errorf("a directory: %v", err)
		}
		if _, err := backup.Import(t.Context(), filepath.Join(dir, "none"), b.options()); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("no file: %v", err)
		}
		if after := len(lines(t, b)); after != before {
			t.Errorf("%d lines were opened for nothing", after-before)
		}
		b.noSpool(t)
	})

	t.Run("export leaves nothing and replaces nothing", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "taken.db")
		if err := os.WriteFile(out, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		s := b.listed(t, live.ID)
		if err := backup.Export(t.Context(), s, out, backup.ExportOptions{Repository: b.repo}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("a name that is taken: %v", err)
		}
		if data, err := os.ReadFile(out); err != nil || string(data) != "precious" {
			t.Errorf("it holds %q, %v", data, err)
		}
		replace(t, b.stores[0].Store, "dcs/"+s.DataKey(), func(b []byte) []byte { b[len(b)/2] ^= 1; return b })
		broken := filepath.Join(filepath.Dir(out), "broken.db")
		if err := backup.Export(t.Context(), s, broken, backup.ExportOptions{Repository: b.repo}); !errors.Is(err, backup.ErrVerify) {
			t.Errorf("damaged data: %v", err)
		}
		entries, err := os.ReadDir(filepath.Dir(out))
		if err != nil || len(entries) != 1 {
			t.Errorf("the directory holds %v, %v", entries, err)
		}
	})
}

func flip(data []byte) []byte {
	out := append([]byte(nil), data...)
	out[len(out)/2] ^= 1
	return out
}
