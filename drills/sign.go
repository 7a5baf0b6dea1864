package drills

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// The types of the PEM blocks, as openssl has them.
const (
	privateBlock = "PRIVATE KEY"
	publicBlock  = "PUBLIC KEY"
)

// keyPrefix is what a public key begins with in one line.
const keyPrefix = "ed25519:"

// ErrSignature says that a report is not the one that was signed, or was signed by another key.
var ErrSignature = errors.New("the signature does not fit")

// PublicKey checks signatures of reports.
type PublicKey ed25519.PublicKey

// String writes the key in one line: ed25519: and base64.
func (k PublicKey) String() string { return keyPrefix + base64.StdEncoding.EncodeToString(k) }

// PEM writes the key as openssl reads it.
func (k PublicKey) PEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(ed25519.PublicKey(k))
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: der}), nil
}

// Verify returns ErrSignature unless sig is the key's over text.
func (k PublicKey) Verify(text, sig []byte) error {
	if len(k) != ed25519.PublicKeySize || len(sig) != ed25519.SignatureSize || !ed25519.Verify(ed25519.PublicKey(k), text, sig) {
		return ErrSignature
	}
	return nil
}

// ParsePublicKey reads a public key: one line of [PublicKey.String], or PEM.
func ParsePublicKey(text []byte) (PublicKey, error) {
	if line, ok := strings.CutPrefix(strings.TrimSpace(string(text)), keyPrefix); ok {
		raw, err := base64.StdEncoding.DecodeString(line)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("public key %q: not 32 bytes of base64 after %s", line, keyPrefix)
		}
		return raw, nil
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != publicBlock {
		return nil, fmt.Errorf("no public key: write %sBASE64, or PEM as requorum keygen --signing does", keyPrefix)
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if k, ok := key.(ed25519.PublicKey); ok {
		return PublicKey(k), nil
	}
	return nil, fmt.Errorf("public key: it is a %T, not one of ed25519", key)
}

// A Signer signs reports.
type Signer struct{ key ed25519.PrivateKey }

// NewSigner makes a key.
func NewSigner() (*Signer, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	return &Signer{key}, nil
}

// ReadSigner reads a private key in PEM (PKCS #8), as requorum keygen --signing and openssl genpkey -algorithm ed25519 write it.
func ReadSigner(path string) (*Signer, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("signing key: %w", err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != privateBlock {
		return nil, fmt.Errorf("signing key %s: it holds no PEM block %q; requorum keygen --signing makes one", path, privateBlock)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("signing key %s: %w", path, err)
	}
	k, ok := key.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("signing key %s: it is a %T, not one of ed25519", path, key)
	}
	return &Signer{k}, nil
}

// PEM writes the private key.
func (s *Signer) PEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: privateBlock, Bytes: der}), nil
}

// Public is the key that checks what s signs.
func (s *Signer) Public() PublicKey { return PublicKey(s.key.Public().(ed25519.PublicKey)) }

// Sign returns the signature over text, 64 bytes.
func (s *Signer) Sign(text []byte) []byte { return ed25519.Sign(s.key, text) }

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
