package config

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
)

// redacted is all that a secret ever prints.
const redacted = "[redacted]"

// Secret is a value that never prints: not by fmt with any verb, as JSON, YAML or text, nor in a log. It is held behind
// a pointer, so that even printing a struct around it by reflection shows no more than an address.
type Secret struct{ value *string }

// NewSecret hides a value. An empty one is the zero Secret.
func NewSecret(s string) Secret {
	if s == "" {
		return Secret{}
	}
	return Secret{&s}
}

// Reveal returns the value, for the one place that needs it.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero says that there is no value.
func (s Secret) IsZero() bool { return s.value == nil }

// String is [redacted], or empty without a value.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// Format prints String whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText is String; JSON and XML use it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON is String as JSON.
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// MarshalYAML is String.
func (s Secret) MarshalYAML() (any, error) { return s.String(), nil }

// LogValue is String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// maxSecretFile bounds what is read as one secret, in bytes.
const maxSecretFile = 64 << 10

// ReadSecret reads a secret's file, without the line break at its end. An empty file is an error. Files are read when the secret
// is used, so that a rotated one counts at once.
func ReadSecret(file File) (Secret, error) {
	f, err := os.Open(string(file))
	if err != nil {
		return Secret{}, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	if len(b) > maxSecretFile {
		return Secret{}, fmt.Errorf("%s holds more than %d bytes: that is no password or key", file, maxSecretFile)
	}
	s := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if s == "" {
		return Secret{}, fmt.Errorf("%s is empty", file)
	}
	return NewSecret(s), nil
}

// either returns the inline secret, else the one in the file, else none.
func either(inline Secret, file File) (Secret, error) {
	if file == "" {
		return inline, nil
	}
	return ReadSecret(file)
}

// Credentials returns user name and password; both empty when the server is used without.
func (a Access) Credentials() (username string, password Secret, err error) {
	password, err = either(a.Password, a.PasswordFile)
	if err != nil {
		return "", Secret{}, fmt.Errorf("password of user %s: %w", a.Username, err)
	}
	return a.Username, password, nil
}

// Credentials returns the configured keys; all empty when the AWS SDK's own chain is to find them.
func (s S3) Credentials() (accessKey string, secretKey, sessionToken Secret, err error) {
	secretKey, err = either(s.SecretKey, s.SecretKeyFile)
	if err != nil {
		return "", Secret{}, Secret{}, fmt.Errorf("secret key of bucket %s: %w", s.Bucket, err)
	}
	return s.AccessKey, secretKey, s.SessionToken, nil
}
