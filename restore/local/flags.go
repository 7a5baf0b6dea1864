package local

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/requorum/requorum/restore"
)

// settings are etcd's, by flag name: environment variables, then flags over them. Boolean flags
// without a value are "true".
func settings(args, env []string) map[string]string {
	set := map[string]string{}
	for _, e := range env {
		if name, value, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, "ETCD_") {
			set[strings.ReplaceAll(strings.ToLower(name[len("ETCD_"):]), "_", "-")] = value
		}
	}
	for i := 0; i < len(args); i++ {
		name := strings.TrimLeft(args[i], "-")
		if name == args[i] || len(args[i])-len(name) > 2 || name == "" {
			continue
		}
		if n, value, ok := strings.Cut(name, "="); ok {
			set[n] = value
			continue
		}
		if i+1 < len(args) && !strings.HasPrefix(args[i+1], "-") && !booleans[name] {
			set[name] = args[i+1]
			i++
		} else {
			set[name] = "true"
		}
	}
	return set
}

// booleans are the flags of etcd that take no separate value and could stand before one that matters.
var booleans = map[string]bool{"force-new-cluster": true, "client-cert-auth": true, "peer-client-cert-auth": true, "auto-tls": true,
	"peer-auto-tls": true, "pre-vote": true, "enable-pprof": true, "strict-reconfig-check": true, "enable-v2": true, "logger-console": true,
	"initial-corrupt-check": true, "experimental-initial-corrupt-check": true, "unsafe-no-fsync": true, "socket-reuse-port": true, "socket-reuse-address": true}

// processFlags reads the settings of the running etcd; nil if there is none.
func (p *place) processFlags(running []restore.Process) *restore.Flags {
	for _, proc := range running {
		argv := cmdline(proc.PID)
		if len(argv) == 0 {
			continue
		}
		set := settings(argv[1:], environ(proc.PID))
		if set["data-dir"] == "" && set["name"] == "" && set["config-file"] == "" {
			continue
		}
		o := origin{from: fmt.Sprintf("process %d", proc.PID), complete: true, defaults: true, root: fileSystem(proc.PID)}
		o.cwd, _ = os.Readlink(fmt.Sprintf("/proc/%d/cwd", proc.PID))
		o.program, _ = os.Readlink(fmt.Sprintf("/proc/%d/exe", proc.PID))
		o.program = o.root + o.program
		return p.flags(set, o)
	}
	return nil
}

// shellWords splits a command as a shell would, as far as that can be told from the text alone; plain is false where it expands
// something.
func shellWords(text string) (words []string, plain bool) {
	plain = !strings.ContainsAny(text, "$`*?\n")
	var word strings.Builder
	started := false
	end := func() {
		if started {
			words = append(words, word.String())
			word.Reset()
			started = false
		}
	}
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == ' ' || c == '\t' || c == '\n':
			end()
		case c == ';' || c == '&' || c == '|':
			end()
			words = append(words, string(c))
		case c == '\\' && i+1 < len(text):
			i++
			word.WriteByte(text[i])
			started = true
		case c == '\'' || c == '"':
			started = true
			for i++; i < len(text) && text[i] != c; i++ {
				if c == '"' && text[i] == '\\' && i+1 < len(text) {
					i++
				}
				word.WriteByte(text[i])
			}
		default:
			word.WriteByte(c)
			started = true
		}
	}
	end()
	return words, plain
}

// origin is where settings were found.
type origin struct {
	from     string // for a person
	cwd      string // that relative paths refer to, empty if not known
	root     string // where the file system lies that paths are of, empty for this one
	program  string
	complete bool                     // all settings were seen
	defaults bool                     // the working directory is known for sure, so even etcd's own data dir is
	host     func(path string) string // where a path of a container lies on this machine, empty if nowhere; nil: root says it
}

// flags are settings as they hold on this machine.
func (p *place) flags(set map[string]string, o origin) *restore.Flags {
	abs := func(path string) string {
		if path == "" || filepath.IsAbs(path) || o.cwd == "" {
			return path
		}
		return filepath.Join(o.cwd, path)
	}
	file := func(path string) string {
		switch path = abs(path); {
		case path == "":
			return ""
		case o.host != nil:
			return o.host(path)
		case o.root != "":
			return filepath.Join(o.root, path)
		}
		return path
	}
	dir := func(path string) string {
		if path = abs(path); path != "" && o.host != nil {
			path = o.host(path)
		}
		return p.home(o.root, path)
	}
	if name := set["config-file"]; name != "" {
		data, err := os.ReadFile(file(name))
		if err != nil {
			return &restore.Flags{From: o.from + ", whose config file cannot be read", Program: o.program}
		}
		// With a config file etcd ignores all other flags and the environment.
		set = configFile(data)
		o.from += ", config file " + abs(name)
	}
	list := func(name string) []string {
		if set[name] == "" {
			return nil
		}
		return strings.Split(set[name], ",")
	}
	if o.defaults {
		if set["name"] == "" {
			set["name"] = "default"
		}
		if set["data-dir"] == "" && o.cwd != "" {
			set["data-dir"] = set["name"] + ".etcd"
		}
	}
	f := &restore.Flags{From: o.from, Program: o.program, Complete: o.complete, Name: set["name"],
		DataDir: dir(set["data-dir"]), WALDir: dir(set["wal-dir"]),
		ListenPeer: list("listen-peer-urls"), ListenClient: list("listen-client-urls"),
		AdvertisePeer: list("initial-advertise-peer-urls"), AdvertiseClient: list("advertise-client-urls"),
		ForceNewCluster: set["force-new-cluster"] == "true"}
	f.QuotaBytes, _ = strconv.ParseInt(set["quota-backend-bytes"], 10, 64)
	for _, name := range []string{"cert-file", "key-file", "trusted-ca-file", "client-cert-file", "client-key-file",
		"peer-cert-file", "peer-key-file", "peer-trusted-ca-file"} {
		if path := file(set[name]); path != "" {
			f.TLSFiles = append(f.TLSFiles, path)
		}
	}
	return f
}

// configFile reads etcd's YAML configuration as far as it is flat, and the file names of its TLS sections.
func configFile(data []byte) map[string]string {
	set := map[string]string{}
	section := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, " \t\r\n")
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || trimmed[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(trimmed, ":")
		if !ok {
			continue
		}
		if value = strings.TrimSpace(value); !strings.HasPrefix(value, `"`) && !strings.HasPrefix(value, "'") {
			if i := strings.Index(value, " #"); i >= 0 {
				value = strings.TrimSpace(value[:i])
			}
		}
		value = strings.Trim(value, `"'`)
		if line[0] != ' ' && line[0] != '\t' {
			section = name
			set[name] = value
			continue
		}
		switch section {
		case "client-transport-security":
			set[name] = value
		case "peer-transport-security":
			set["peer-"+name] = value
		}
	}
	return set
}

var etcdVersion = regexp.MustCompile(`(?i)etcd version: v?(\d+\.\d+\.\d+)`)

// versionOf asks the program for its version; empty if it is not etcd itself.
func versionOf(ctx context.Context, program string) string {
	if !strings.HasPrefix(filepath.Base(program), "etcd") {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return ""
	}
	if m := etcdVersion.FindSubmatch(out); m != nil {
		return string(m[1])
	}
	return ""
}

// tlsProblems looks at the TLS files of etcd itself: a server that cannot read one does not start.
func tlsProblems(files []string, now time.Time) []restore.Problem {
	var found []restore.Problem
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			found = append(found, restore.Problem{Check: "tls files", Detail: err.Error()})
			continue
		}
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				continue
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			switch {
			case err != nil:
				found = append(found, restore.Problem{Check: "tls files", Detail: fmt.Sprintf("%s: %v", file, err)})
			case now.After(cert.NotAfter):
				found = append(found, restore.Problem{Check: "tls files", Detail: fmt.Sprintf("%s: the certificate of %s expired at %s",
					file, cert.Subject, cert.NotAfter.Format(time.RFC3339))})
			}
		}
		if !bytes.Contains(data, []byte("-----BEGIN")) {
			found = append(found, restore.Problem{Check: "tls files", Detail: file + " holds no PEM data"})
		}
	}
	return found
}
