package config

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/requorum/requorum/internal/seal"
)

// fault is what is wrong with one value.
type fault struct{ what, advice string }

// leaf is a value written as one text. parse gets the text with its ${VAR} filled in.
type leaf interface {
	parse(text string, d *decoder) *fault
	describe() string // for the reference and for messages: expected a …
}

type (
	// URL is an absolute http or https URL without user, password, query or fragment.
	URL string
	// File is a file on this machine that must be there and be readable when the configuration is read.
	File string
	// Path is a file or directory on this machine that need not be there yet.
	Path string
	// HostPath is an absolute path on a member's host.
	HostPath string
	// Host is where a member runs: local or ssh://[user@]host[:port].
	Host string
	// KeyPrefix is the start of keys in etcd.
	KeyPrefix string
	// Recipient is an age public key (age1…) or an SSH public key.
	Recipient string
	// Version is the version of an etcd server, such as 3.5.35.
	Version string
)

func (u *URL) parse(text string, _ *decoder) *fault {
	if f := checkURL(text); f != nil {
		return f
	}
	*u = URL(strings.TrimSuffix(text, "/"))
	return nil
}

func (*URL) describe() string { return "URL" }

// HTTPS says whether the URL asks for TLS.
func (u URL) HTTPS() bool { return strings.HasPrefix(string(u), "https://") }

func checkURL(text string) *fault {
	const advice = "write it like https://10.0.0.1:2379"
	u, err := url.Parse(text)
	switch {
	case u != nil && u.User != nil, strings.Contains(text, "@"):
		return &fault{"a URL with a user or a password in it would show them in logs", "use username and password_file"}
	case err != nil && !strings.Contains(text, "://"), err == nil && u.Scheme == "",
		err == nil && u.Host == "" && u.Scheme != "http" && u.Scheme != "https":
		return &fault{quote(text) + " is no URL", advice}
	case err != nil:
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return &fault{"not a URL: " + err.Error(), advice}
	case u.Scheme != "http" && u.Scheme != "https":
		return &fault{quote(text) + " has the scheme " + u.Scheme + ", not http or https", advice}
	case u.Hostname() == "":
		return &fault{quote(text) + " names no host", advice}
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return &fault{quote(text) + " has a query or fragment", "leave out what follows ? or #"}
	}
	return nil
}

func (f *File) parse(text string, d *decoder) *fault {
	if text == "" {
		return &fault{"an empty text names no file", "write the file's path or remove the key"}
	}
	p := d.resolve(text)
	info, err := os.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &fault{"there is no file " + p, "relative paths start at the configuration's directory"}
	case err != nil:
		return &fault{"cannot look at the file: " + err.Error(), "check the path and its permissions"}
	case info.IsDir():
		return &fault{p + " is a directory", "name the file in it"}
	}
	*f = File(p)
	return nil
}

func (*File) describe() string { return "file" }

func (p *Path) parse(text string, d *decoder) *fault {
	if text == "" {
		return &fault{"an empty text is no path", "write a path or remove the key"}
	}
	*p = Path(d.resolve(text))
	return nil
}

func (*Path) describe() string { return "path" }

// resolve makes a path absolute: a relative one starts at the configuration's directory.
func (d *decoder) resolve(p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(d.dir, p)
}

func (p *HostPath) parse(text string, _ *decoder) *fault {
	if text == "" {
		*p = ""
		return nil
	}
	switch clean := path.Clean(text); {
	case !path.IsAbs(text):
		return &fault{quote(text) + " is not absolute", "write the path on the member's host from / on"}
	case clean == "/":
		return &fault{"/ is the whole host", "name the directory itself, such as /var/lib/etcd"}
	default:
		*p = HostPath(clean)
		return nil
	}
}

func (*HostPath) describe() string { return "path on the host" }

func (h *Host) parse(text string, _ *decoder) *fault {
	if text == "local" {
		*h = Host(text)
		return nil
	}
	const advice = "write local, or ssh://user@host"
	if login, _, ok := strings.Cut(strings.TrimPrefix(text, "ssh://"), "@"); ok && strings.Contains(login, ":") {
		return &fault{"the host has a password in it", "use an SSH key"}
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "ssh" || u.Hostname() == "" {
		return &fault{quote(text) + " is no host", advice}
	}
	if strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return &fault{quote(text) + " has more than user, host and port", advice}
	}
	*h = Host(strings.TrimSuffix(text, "/"))
	return nil
}

func (*Host) describe() string { return "host" }

// Local says that the member runs on this machine.
func (h Host) Local() bool { return h == "local" }

func (k *KeyPrefix) parse(text string, _ *decoder) *fault {
	if text == "" {
		return &fault{"an empty prefix is every key in etcd", "write the start of the keys that are meant"}
	}
	*k = KeyPrefix(text)
	return nil
}

func (*KeyPrefix) describe() string { return "key prefix" }

func (r *Recipient) parse(text string, _ *decoder) *fault {
	const advice = "write the public key that requorum keygen printed (age1…), or an SSH public key"
	if strings.HasPrefix(strings.ToUpper(strings.TrimSpace(text)), "AGE-SECRET-KEY-") {
		return &fault{"this is a secret key, not a public one", "take it out of this file, keep it in identity_file, and " + advice}
	}
	if _, err := seal.ParseRecipient(text); err != nil {
		return &fault{err.Error(), advice}
	}
	*r = Recipient(strings.TrimSpace(text))
	return nil
}

func (*Recipient) describe() string { return "age recipient" }

var versionForm = regexp.MustCompile(`^3\.(\d{1,3})\.\d{1,3}$`)

func (v *Version) parse(text string, _ *decoder) *fault {
	text = strings.TrimPrefix(text, "v")
	m := versionForm.FindStringSubmatch(text)
	if m == nil || len(m[1]) == 1 && m[1] < "4" {
		return &fault{quote(text) + " is no version of etcd from 3.4.0 on", "write all three numbers, such as 3.5.35"}
	}
	*v = Version(text)
	return nil
}

func (*Version) describe() string { return "version" }

func (s *Secret) parse(text string, _ *decoder) *fault {
	if text == "" {
		return &fault{"the secret is empty", "write one or remove the key"}
	}
	*s = NewSecret(text)
	return nil
}

func (*Secret) describe() string { return "secret" }
