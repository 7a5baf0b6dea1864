package drills

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/requorum/requorum/storage/catalog"
)

// A key survives its files, in both forms of the public half.
func TestKeys(t *testing.T) {
	made, err := NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	private, err := made.PEM()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, private, 0o600); err != nil {
		t.Fatal(err)
	}
	read, err := ReadSigner(path)
	if err != nil {
		t.Fatal(err)
	}
	public, err := made.Public().PEM()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(public), made.Public().String(), made.Public().String() + "\n"} {
		key, err := ParsePublicKey([]byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if err := key.Verify([]byte("text"), read.Sign([]byte("text"))); err != nil {
			t.Error(err)
		}
		if err := key.Verify([]byte("Text"), read.Sign([]byte("text"))); !errors.Is(err, ErrSignature) {
			t.Errorf("another text: %v", err)
		}
	}
	for _, text := range []string{"", "ed25519:", "ed25519:AAAA", "ssh-ed25519 AAAA", string(private), "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"} {
		if key, err := ParsePublicKey([]byte(text)); err == nil {
			t.Errorf("%q is read as the key %s", text, key)
		}
	}
	if err := os.WriteFile(path, public, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSigner(path); err == nil || !strings.Contains(err.Error(), "keygen --signing") {
		t.Errorf("a public key as the signing key: %v", err)
	}
}

// Nothing in a report is believed that its signature does not cover.
func TestVerifyFiles(t *testing.T) {
	signer, err := NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	common := Common{Signer: signer}
	whole, err := common.files(&Report{Format: Format, ID: "d0123456789a", Cluster: "dcs", Outcome: Proven, OK: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		key        PublicKey
		change     func(files map[string][]byte)
		ok, signed bool
		words      string
	}{
		{"whole", signer.Public(), func(map[string][]byte) {}, true, true, "signed by ed25519:"},
		{"another key", other.Public(), func(map[string][]byte) {}, false, true, "does not fit"},
		{"no key", nil, func(map[string][]byte) {}, false, true, "does not fit"},
		{"changed", signer.Public(), func(f map[string][]byte) { f[catalog.DrillJSON] = append([]byte(" "), f[catalog.DrillJSON]...) }, false, true, "does not fit"},
		{"changed page", signer.Public(), func(f map[string][]byte) { f[catalog.DrillHTML] = append(f[catalog.DrillHTML], ' ') }, false, true, "the page is not the one"},
		{"short signature", signer.Public(), func(f map[string][]byte) { f[catalog.DrillSignature] = f[catalog.DrillSignature][:63] }, false, true, "does not fit"},
		{"no signature", signer.Public(), func(f map[string][]byte) { delete(f, catalog.DrillSignature) }, false, false, "its signature is missing"},
		{"no page", signer.Public(), func(f map[string][]byte) { delete(f, catalog.DrillHTML) }, false, true, "the page"},
		{"nothing", signer.Public(), func(f map[string][]byte) { clear(f) }, false, false, "not exist"},
	} {
		files := map[string][]byte{}
		for name, b := range whole {
			files[name] = append([]byte{}, b...)
		}
		c.change(files)
		got := VerifyFiles("here", c.key, func(file string) ([]byte, error) {
			if b, ok := files[file]; ok {
				return b, nil
			}
			return nil, fs.ErrNotExist
		})
		if got.OK != c.ok || got.Signed != c.signed || !strings.Contains(got.Detail, c.words) {
			t.Errorf("%s: %+v, want ok %v, signed %v, %q", c.name, got, c.ok, c.signed, c.words)
		}
	}
}

// A report that was never signed is told from one that lost its signature.
func TestVerifyUnsigned(t *testing.T) {
	common := Common{}
	files, err := common.files(&Report{Format: Format, ID: "d0123456789a", Cluster: "dcs"})
	if err != nil {
		t.Fatal(err)
	}
	get := func(file string) ([]byte, error) {
		if b, ok := files[file]; ok {
			return b, nil
		}
		return nil, fs.ErrNotExist
	}
	if s := VerifyFiles("here", nil, get); s.OK || s.Signed || !s.Intact || !strings.Contains(s.Detail, "not signed") {
		t.Errorf("unsigned: %+v", s)
	}
	if page := string(files[catalog.DrillHTML]); !strings.Contains(page, "This report is not signed") {
		t.Error("the page does not say that it is not signed")
	}
	files[catalog.DrillHTML] = append(files[catalog.DrillHTML], ' ')
	if s := VerifyFiles("here", nil, get); s.Intact {
		t.Errorf("unsigned, with another page: %+v", s)
	}
}
