package patroni

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/requorum/requorum/agents"
)

// plainKeys are the keys of a scope beside members/<name>, in the order of the
// documentation.
func plainKeys() []string {
	return []string{"leader", "config", "initialize", "status", "history", "sync", "failover", "failsafe", "optime/leader"}
}

// selected names the keys without a lease that tell a scope.
func selected() agents.Select {
	s := agents.Select{Infixes: []string{"/members/"}}
	for _, name := range plainKeys() {
		s.Suffixes = append(s.Suffixes, "/"+name)
	}
	return s
}

// scope is what a key space holds of one Patroni cluster.
type scope struct {
	dir     string // with a slash at its end: "/service/main/"
	citus   string // the directory of the Citus cluster it is a group of, "" for none
	keys    map[string]*mvccpb.KeyValue
	members map[string]*mvccpb.KeyValue // by name
	config  config                      // nil when it is absent or no JSON object
}

// name is the scope as a person writes it: its directory without the last
// slash.
func (s *scope) name() string { return strings.TrimSuffix(s.dir, "/") }

// dirOf is the directory of a scope as Patroni builds it.
func dirOf(namespace, name string) string {
	return path.Join("/", namespace, name) + "/"
}

// readScope takes the keys of the scope in dir.
func readScope(kv agents.Reader, dir string) *scope {
	s := newScope(dir)
	for k := range kv.Keys(dir) {
		s.add(k)
	}
	return s
}

func newScope(dir string) *scope {
	return &scope{dir: dir, keys: map[string]*mvccpb.KeyValue{}, members: map[string]*mvccpb.KeyValue{}}
}

// add takes k if it is a key of this scope.
func (s *scope) add(k *mvccpb.KeyValue) {
	rel := strings.TrimPrefix(string(k.Key), s.dir)
	if name, ok := strings.CutPrefix(rel, "members/"); ok {
		if name != "" && !strings.Contains(name, "/") {
			s.members[name] = k
		}
		return
	}
	if !slices.Contains(plainKeys(), rel) {
		return
	}
	s.keys[rel] = k
	if rel == "config" {
		s.config = parseConfig(k.Value)
	}
}

func (s *scope) empty() bool { return len(s.keys) == 0 && len(s.members) == 0 }

func (s *scope) value(rel string) []byte {
	if k := s.keys[rel]; k != nil {
		return k.Value
	}
	return nil
}

// systemID is the identifier in initialize, "" when there is none.
func (s *scope) systemID() string {
	id, _ := parseSystemID(s.value("initialize"))
	return id
}

// timeline is the newest timeline that the keys know of, 0 for none.
func (s *scope) timeline() int64 {
	var newest int64
	for _, k := range s.members {
		if m, ok := parseMember(k.Value); ok {
			newest = max(newest, m.Timeline)
		}
	}
	history, _ := parseHistory(s.value("history"))
	for _, c := range history {
		newest = max(newest, c.Timeline+1)
	}
	return newest
}

// recognise finds all scopes of a key space by their shape, in order of their
// directories. Other programs have keys called config or leader too, so names
// alone prove nothing: a scope has a member whose value is Patroni's, or two
// keys with Patroni's values of which one is initialize or config. What is
// left when all leased keys have ended - config, initialize, history - is
// enough.
func recognise(kv agents.Reader) []*scope {
	candidates := map[string]*scope{}
	consider := func(dir string, k *mvccpb.KeyValue) {
		s, ok := candidates[dir]
		if !ok {
			s = newScope(dir)
			candidates[dir] = s
		}
		s.add(k)
	}
	for k := range kv.Keys("") {
		key := string(k.Key)
		for _, dir := range dirsOf(key) {
			consider(dir, k)
		}
	}
	var found []*scope
	for _, s := range candidates {
		if s.looksLikePatroni() {
			s.citus = citusOf(s.dir)
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *scope) int { return strings.Compare(a.dir, b.dir) })
	return found
}

// dirsOf returns the directories whose scope a key could belong to: none, one,
// or two for such as /service/members/leader.
func dirsOf(key string) []string {
	var dirs []string
	if i := strings.LastIndex(key, "/members/"); i >= 0 && !strings.Contains(key[i+len("/members/"):], "/") {
		dirs = append(dirs, key[:i+1])
	}
	for _, name := range plainKeys() {
		if dir, ok := strings.CutSuffix(key, "/"+name); ok {
			dirs = append(dirs, dir+"/")
		}
	}
	return dirs
}

func (s *scope) looksLikePatroni() bool {
	for _, k := range s.members {
		if _, ok := parseMember(k.Value); ok {
			return true
		}
	}
	shaped := 0
	own := s.config.looksDynamic() // initialize or config: every scope that ever ran has them
	if s.config != nil {
		shaped++
	}
	if s.systemID() != "" {
		shaped++
		own = true
	}
	if _, ok := parseHistory(s.value("history")); ok {
		shaped++
	}
	if _, ok := parseSync(s.value("sync")); ok {
		shaped++
	}
	if isStatus(s.value("status")) {
		shaped++
	}
	for _, rel := range []string{"failover", "failsafe"} {
		if parseConfig(s.value(rel)) != nil {
			shaped++
		}
	}
	if _, err := strconv.ParseUint(string(s.value("optime/leader")), 10, 64); err == nil {
		shaped++
	}
	if k := s.keys["leader"]; k != nil && k.Lease != 0 {
		shaped++
	}
	return own && shaped >= 2
}

// citusOf returns the directory of the Citus cluster that a scope's directory
// is a group of: <scope>/<group number>/. A scope that is called by a number
// looks the same; then a person is asked once too often, not too seldom.
func citusOf(dir string) string {
	up, group := path.Split(strings.TrimSuffix(dir, "/"))
	if n, err := strconv.ParseUint(group, 10, 31); err != nil || strconv.FormatUint(n, 10) != group || up == "/" || up == "" {
		return ""
	}
	return up
}
