package ssh

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/kevinburke/ssh_config"
)

// settings are all that is needed to reach one machine.
type settings struct {
	name       string // as it was asked for
	addr       string // host:port to connect to
	user       string
	identities []string      // key files that were named; empty: the usual ones
	only       bool          // no key of an agent but those of the key files
	agent      string        // socket of the SSH agent, empty for none
	knownHosts []string      // files
	known      string        // host:port as it stands in them
	timeout    time.Duration // for connecting
	jumps      []settings    // machines to go through, in their order
}

// maxJumps bounds chains of ProxyJump, which may be circles.
const maxJumps = 8

// settings resolves a URL by ssh_config(5). What the URL says comes first, then what the options say.
func (o Options) settings(raw string) (settings, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "ssh" || u.Hostname() == "" {
		return settings{}, fmt.Errorf("host %q is not of the form ssh://user@host:port", raw)
	}
	configs, err := o.configs()
	if err != nil {
		return settings{}, err
	}
	s, err := o.resolve(configs, u.Hostname(), u.User.Username(), u.Port(), 0)
	if err != nil {
		return settings{}, fmt.Errorf("host %s: %w", raw, err)
	}
	return s, nil
}

// configs are the configuration files in the order in which they count.
func (o Options) configs() (found []*ssh_config.Config, err error) {
	files := []string{home("config"), "/etc/ssh/ssh_config"}
	if o.Config != "" {
		files = []string{o.Config}
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) && o.Config == "" {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the SSH configuration: %w", err)
		}
		c, err := ssh_config.DecodeBytes(b)
		if err != nil {
			return nil, fmt.Errorf("read the SSH configuration %s: %w; name a simpler file as ssh.config", file, err)
		}
		found = append(found, c)
	}
	return found, nil
}

// home is a file in the user's .ssh directory.
func home(name string) string {
	dir, err := os.UserHomeDir()
	if err != nil {
		return filepath.Join("/nonexistent", name) // whoever has no home has no file in it
	}
	return filepath.Join(dir, ".ssh", name)
}

func (o Options) resolve(configs []*ssh_config.Config, alias, login, port string, depth int) (settings, error) {
	s := settings{name: alias}
	if depth > maxJumps {
		return s, fmt.Errorf("more than %d jump hosts: ProxyJump of %s leads in a circle", maxJumps, alias)
	}
	var failed error
	get := func(key string) string {
		for _, c := range configs {
			v, err := c.Get(alias, key)
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("SSH configuration, %s: %w", key, err))
			}
			if v != "" {
				return v
			}
		}
		return ""
	}
	all := func(key string) (values []string) {
		for _, c := range configs {
			v, err := c.GetAll(alias, key)
			if err != nil {
				failed = errors.Join(failed, fmt.Errorf("SSH configuration, %s: %w", key, err))
			}
			values = append(values, v...)
		}
		return values
	}
	host := first(get("HostName"), alias)
	host = strings.NewReplacer("%%", "%", "%h", alias).Replace(host)
	s.user = first(login, get("User"), me())
	port = first(port, get("Port"), "22")
	s.addr = net.JoinHostPort(strings.Trim(host, "[]"), port)
	s.known = s.addr
	if alias := get("HostKeyAlias"); alias != "" {
		s.known = net.JoinHostPort(alias, "22") // no port is part of an alias
	}
	expand := s.expander(host, port)

	for _, file := range all("IdentityFile") {
		s.identities = append(s.identities, expand(file))
	}
	s.only = strings.EqualFold(get("IdentitiesOnly"), "yes")
	s.agent = os.Getenv("SSH_AUTH_SOCK")
	if socket := get("IdentityAgent"); strings.EqualFold(socket, "none") {
		s.agent = ""
	} else if socket != "" && socket != "SSH_AUTH_SOCK" {
		s.agent = os.ExpandEnv(expand(socket))
	}
	users, global := []string{home("known_hosts"), home("known_hosts2")}, []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"}
	if v := get("UserKnownHostsFile"); v != "" {
		users = strings.Fields(v)
	}
	if v := get("GlobalKnownHostsFile"); v != "" {
		global = strings.Fields(v)
	}
	for _, file := range append(users, global...) {
		if !strings.EqualFold(file, "none") && file != os.DevNull {
			s.knownHosts = append(s.knownHosts, expand(file))
		}
	}
	if len(o.IdentityFiles) > 0 {
		s.identities = o.IdentityFiles
	}
	if len(o.KnownHosts) > 0 {
		s.knownHosts = o.KnownHosts
	}
	s.timeout = dialTimeout
	if v := get("ConnectTimeout"); v != "" {
		if d, err := time.ParseDuration(v + "s"); err == nil && d > 0 {
			s.timeout = min(d, dialTimeout)
		}
	}
	jump := get("ProxyJump")
	if c := get("ProxyCommand"); c != "" && !strings.EqualFold(c, "none") && jump == "" {
		return s, fmt.Errorf("the SSH configuration of %s has a ProxyCommand, which is not supported: use ProxyJump", alias)
	}
	if failed != nil {
		return s, failed
	}
	if jump == "" || strings.EqualFold(jump, "none") {
		return s, nil
	}
	for i, spec := range strings.Split(jump, ",") {
		u, err := url.Parse("ssh://" + strings.TrimPrefix(strings.TrimSpace(spec), "ssh://"))
		if err != nil || u.Hostname() == "" {
			return s, fmt.Errorf("ProxyJump %q of %s is not of the form user@host:port", spec, alias)
		}
		j, err := o.resolve(configs, u.Hostname(), u.User.Username(), u.Port(), depth+1)
		if err != nil {
			return s, err
		}
		if i == 0 { // only the first is reached by its own jumps
			s.jumps = append(s.jumps, j.jumps...)
		}
		j.jumps = nil
		s.jumps = append(s.jumps, j)
	}
	if len(s.jumps) > maxJumps {
		return s, fmt.Errorf("more than %d jump hosts to %s", maxJumps, alias)
	}
	return s, nil
}

// expander fills in the tokens of file names.
func (s settings) expander(host, port string) func(string) string {
	dir, _ := os.UserHomeDir() // without one ~ stays as it is
	r := strings.NewReplacer("%%", "%", "%d", dir, "%h", host, "%n", s.name, "%p", port, "%r", s.user, "%u", me())
	return func(file string) string {
		if rest, ok := strings.CutPrefix(file, "~/"); ok && dir != "" {
			file = filepath.Join(dir, rest)
		}
		return r.Replace(file)
	}
}

func me() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return os.Getenv("USER")
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
