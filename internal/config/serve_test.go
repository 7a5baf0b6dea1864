package config

import (
	"strings"
	"testing"
)

// An address that strangers can reach must not be served without TLS and a token.
func TestServeIsGuarded(t *testing.T) {
	const clusters = "clusters: {dcs: {endpoints: [http://127.0.0.1:2379], stores: [main]}}\nstores: {main: {file: {path: b}}}\n"
	for _, c := range []struct {
		name, serve, want string
	}{
		{"nothing written", "", ""},
		{"loopback", "serve: {listen: '127.0.0.1:0'}", ""},
		{"loopback by name", "serve: {listen: 'localhost:9379', token: abc}", ""},
		{"loopback of IPv6", "serve: {listen: '[::1]:9379'}", ""},
		{"all addresses", "serve: {listen: ':9379'}", "serve.listen: :9379 can be reached from other machines: that needs serve.tls and serve.token_file"},
		{"another address with a token alone", "serve: {listen: '10.0.0.1:9379', token: abc}", "that needs serve.tls; or"},
		{"a name that is not known to be loopback", "serve: {listen: 'backup.example:9379', token: abc}", "can be reached"},
		{"no port", "serve: {listen: 127.0.0.1}", "write HOST:PORT"},
		{"no runs", "serve: {runs_at_once: 0}", "serve.runs_at_once: it must be at least 1"},
		{"too eager", "serve: {watch: 10ms}", "serve.watch"},
		{"two tokens", "serve: {token: abc, token_file: requorum.yaml}", "token and token_file"},
		{"a lease that etcd does not grant", "election: {endpoints: [http://127.0.0.1:1], lease: 1500ms}", "election.lease"},
		{"a key twice", "election: {endpoints: [http://127.0.0.1:1], prefix: /a/}", "election.prefix"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("requorum.yaml", []byte(clusters+c.serve), env(nil))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
