package ssh

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// settings are all that is needed to reach one machine.
type settings struct {
	name         string // as it was asked for
	addr         string // host:port to connect to
	user         string
	identities   []string      // key files that were named; empty: the usual ones
	certificates []string      // files of certificates that were named
	only         bool          // no key of an agent but those of the key files
	agent        string        // socket of the SSH agent, empty for none
	knownHosts   []string      // files
	known        string        // host:port as it stands in them
	timeout      time.Duration // for connecting
	jumps        []settings    // machines to go through, in their order
	command      string        // whose input and output lead there, for a shell; empty: it is connected to
	passed       []string      // what the configuration says that is not followed
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

// home is a file in the user's .ssh directory.
func home(name string) string { return filepath.Join(homeDir(), ".ssh", name) }

// homeDir is the user's home directory, also where, as for a service, the environment does not name it.
func homeDir() string {
	if dir, err := os.UserHomeDir(); err == nil {
		return dir
	}
	if u, err := user.Current(); err == nil && u.HomeDir != "" {
		return u.HomeDir
	}
	return "/nonexistent" // whoever has no home has no file in it
}

func (o Options) resolve(configs [][]configLine, alias, login, port string, depth int) (settings, error) {
	s := settings{name: alias}
	if depth > maxJumps {
		return s, fmt.Errorf("more than %d jump hosts: ProxyJump of %s leads in a circle", maxJumps, alias)
	}
	says := ask(configs, alias, login)
	get := says.value
	s.passed = says.passed
	host := says.hostName()
	s.user = first(login, get("User"), me())
	port = first(port, get("Port"), "22")
	s.addr = net.JoinHostPort(strings.Trim(host, "[]"), port)
	s.known = s.addr
	if alias := get("HostKeyAlias"); alias != "" {
		s.known = net.JoinHostPort(alias, "22") // no port is part of an alias
	}
	expand := s.expander(host, port)

	for _, file := range says.values["identityfile"] {
		if !strings.EqualFold(file, "none") {
			s.identities = append(s.identities, expand(file))
		}
	}
	for _, file := range says.values["certificatefile"] {
		s.certificates = append(s.certificates, expand(file))
	}
	s.only = strings.EqualFold(get("IdentitiesOnly"), "yes")
	s.agent = os.Getenv("SSH_AUTH_SOCK")
	if socket := get("IdentityAgent"); strings.EqualFold(socket, "none") {
		s.agent = ""
	} else if socket != "" && socket != "SSH_AUTH_SOCK" {
		s.agent = os.ExpandEnv(expand(socket))
	}
	users, global := []string{home("known_hosts"), home("known_hosts2")}, []string{"/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2"}
	if v := says.values["userknownhostsfile"]; v != nil {
		users = v
	}
	if v := says.values["globalknownhostsfile"]; v != nil {
		global = v
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
	if f := get("RevokedHostKeys"); !none(f) {
		return s, fmt.Errorf("the SSH configuration of %s has RevokedHostKeys, which is not supported: mark such keys with @revoked in known_hosts", alias)
	}
	if c := get("ProxyCommand"); !none(c) {
		var err error
		if s.command, err = s.proxyCommand(c, host, port); err != nil {
			return s, fmt.Errorf("ProxyCommand of %s: %w", alias, err)
		}
	}
	jump := get("ProxyJump")
	if none(jump) {
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
		if i == 0 { // only the first is reached by its own jumps, or by its own command
			s.jumps = append(s.jumps, j.jumps...)
		} else {
			j.command = ""
		}
		j.jumps = nil
		s.jumps = append(s.jumps, j)
	}
	if len(s.jumps) > maxJumps {
		return s, fmt.Errorf("more than %d jump hosts to %s", maxJumps, alias)
	}
	return s, nil
}

// behind says whether the machine is reached in another way than by connecting to it.
func (s settings) behind() bool { return len(s.jumps) > 0 || s.command != "" }

// expander fills in the tokens and the ${VARIABLES} of file names.
func (s settings) expander(host, port string) func(string) string {
	known, _, _ := net.SplitHostPort(s.known) // it was joined
	here, _ := os.Hostname()                  // without a name it is empty
	short, _, _ := strings.Cut(here, ".")
	r := strings.NewReplacer("%%", "%", "%d", homeDir(), "%h", host, "%n", s.name, "%p", port, "%r", s.user, "%u", me(),
		"%i", strconv.Itoa(os.Getuid()), "%k", known, "%l", here, "%L", short)
	return func(file string) string {
		if rest, ok := strings.CutPrefix(file, "~/"); ok {
			file = filepath.Join(homeDir(), rest)
		}
		return variable.ReplaceAllStringFunc(r.Replace(file), func(v string) string { return os.Getenv(v[2 : len(v)-1]) })
	}
}

var variable = regexp.MustCompile(`\$\{\w+\}`)

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
