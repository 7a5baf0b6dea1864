package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write golden files anew")

// TestProblemTexts compares all problems and warnings of each file in testdata/problems with its golden file. Each problem must
// have a place, and no secret may show.
func TestProblemTexts(t *testing.T) {
	files, err := filepath.Glob("testdata/problems/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no files", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			for name, mode := range map[string]os.FileMode{"cert.pem": 0o600, "secret": 0o644} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), mode); err != nil {
					t.Fatal(err)
				}
			}
			c, err := Parse(filepath.Join(dir, "requorum.yaml"), data, env(nil))
			ps, ok := errors.AsType[Problems](err)
			if !ok {
				t.Fatalf("error is %T (%v), not Problems", err, err)
			}
			for _, p := range ps {
				if p.Line < 1 || p.Column < 1 || p.What == "" {
					t.Errorf("no place or text: %+v", p)
				}
			}
			got := ps.Error() + "\n"
			if c != nil && len(c.Warnings) > 0 {
				got += "warnings:\n" + c.Warnings.Error() + "\n"
			}
			got = strings.ReplaceAll(got, dir+"/", "")
			for _, secret := range []string{"inline-secret", "12345", "u:pw", "AGE-SECRET-KEY-1ABC", "b c"} {
				if strings.Contains(got, secret) {
					t.Errorf("the secret %q shows", secret)
				}
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}
