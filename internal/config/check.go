package config

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/internal/seal"
)

// nameForm is that of clusters and stores: no points, which separate keys.
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)

const nameAdvice = "use up to 63 letters, digits, dashes and underscores, beginning with a letter or digit"

// checker collects what is wrong between values that are each well formed.
type checker struct {
	*Config
	problems Problems
}

// check finds what is wrong without asking anyone. Values that did not decode are empty here and were reported.
func (c *Config) check() Problems {
	k := &checker{Config: c}
	k.noneIn("clusters", len(c.Clusters))
	k.noneIn("stores", len(c.Stores))
	for _, name := range sortedKeys(c.Stores) {
		k.store("stores."+name, c.Stores[name])
	}
	for _, cl := range c.Sorted() {
		k.cluster("clusters."+cl.Name, cl)
	}
	k.repositories()
	if c.Election != nil {
		k.election(*c.Election)
	}
	k.serve()
	k.notify()
	return k.problems
}

func (k *checker) add(key, what, advice string) {
	p := k.At(key)
	p.What, p.Advice = what, advice
	k.problems = append(k.problems, p)
}

func (k *checker) warn(key, what, advice string) {
	p := k.At(key)
	p.What, p.Advice = what, advice
	k.Warnings = append(k.Warnings, p)
}

func (k *checker) written(key string) bool {
	_, ok := k.at[key]
	return ok
}

// noneIn reports an empty mapping or list; a missing one was reported by the decoder.
func (k *checker) noneIn(key string, n int) {
	if n == 0 && k.written(key) && !k.reported(key) && !k.faulty(key) {
		k.add(key, "it is empty", "write at least one")
	}
}

// faulty says whether nothing in a key may be concluded from its emptiness, since it holds keys that did not decode.
func (k *checker) faulty(key string) bool {
	for at := range k.at {
		if strings.HasPrefix(at, key+".") || strings.HasPrefix(at, key+"[") {
			return true
		}
	}
	return false
}

// twice reports values that repeat an earlier one. Empty ones are passed over.
func (k *checker) twice(values []string, key func(i int) string, what string) {
	first := map[string]int{}
	for i, v := range values {
		if v == "" {
			continue
		}
		if j, ok := first[v]; ok {
			k.add(key(i), what+" "+quote(v)+" is taken by "+key(j), "each must be different")
			continue
		}
		first[v] = i
	}
}

func item(key string) func(int) string {
	return func(i int) string { return fmt.Sprintf("%s[%d]", key, i) }
}

func texts[T ~string](list []T) []string {
	all := make([]string, len(list))
	for i, v := range list {
		all[i] = string(v)
	}
	return all
}

func (k *checker) cluster(key string, cl *Cluster) {
	k.connection(key, cl.Connection)
	if len(cl.Endpoints) == 0 && len(cl.Members) == 0 && k.source.Line > 0 && !k.written(key+".endpoints") {
		k.add(key+".endpoints", "the key is missing", "list the members' client URLs")
	}
	k.noneIn(key+".endpoints", len(cl.Endpoints))
	k.noneIn(key+".stores", len(cl.Stores))
	k.twice(cl.Stores, item(key+".stores"), "the store")
	for i, s := range cl.Stores {
		if k.Stores[s] == nil && s != "" && !k.written("stores."+s) {
			k.add(item(key+".stores")(i), "there is no store "+quote(s), k.meantStore(s))
		}
	}
	if cl.Path != "" {
		k.objectPath(key+".path", cl.Path)
	}
	k.recipients(key+".recipients", cl.Recipients)
	k.schedules(key, cl)
	if cl.Retention != nil {
		k.retention(key+".retention", *cl.Retention)
	}
	k.thresholds(key+".thresholds", cl.Thresholds)
	if cl.Heartbeat != nil {
		k.secretURL(key+".heartbeat", *cl.Heartbeat)
	}
	k.positive(key+".snapshot.dial_timeout", cl.Snapshot.DialTimeout)
	k.positive(key+".snapshot.stall_timeout", cl.Snapshot.StallTimeout)
	k.positive(key+".sweep_after", cl.SweepAfter)
	if d := time.Duration(cl.SweepAfter); d > 0 && d < day {
		k.warn(key+".sweep_after", "a backup that runs longer than "+cl.SweepAfter.String()+" would be swept while it is written", "write more than any run takes, such as 7d")
	}
	k.members(key+".members", cl.Members)
	k.agents(key, cl)
	k.exposed(key+".identity_file", cl.IdentityFile)
	k.exposed(key+".drill_signing_key_file", cl.DrillSigning)
}

func (k *checker) recipients(key string, list []Recipient) {
	k.twice(texts(list), item(key), "the recipient")
	known := slices.DeleteFunc(texts(list), func(r string) bool { return r == "" })
	if _, err := seal.ParseRecipients(known); err != nil {
		k.add(key, err.Error(), "write recipients of one kind")
	}
}

func (k *checker) meantStore(wrong string) string {
	defined := sortedKeys(k.Stores)
	for _, name := range defined {
		if edits(strings.ToLower(wrong), strings.ToLower(name)) <= max(1, len(wrong)/3) {
			return "did you mean " + name + "?"
		}
	}
	return "define it under stores; defined are " + join(defined)
}

func (k *checker) positive(key string, d Duration) {
	if d == 0 && k.written(key) && !k.reported(key) {
		k.add(key, "it must be longer than nothing", "write a duration such as 30s")
	}
}

// reported says that the decoder found the value wrong, so that its zero means nothing.
func (k *checker) reported(key string) bool { return k.bad[key] }

func (k *checker) connection(key string, c Connection) {
	k.urls(key+".endpoints", "endpoint", c.Endpoints)
	k.access(key, "endpoints", c.Endpoints, c.Access)
}

// urls reports a list that names a server twice or mixes http and https.
func (k *checker) urls(key, what string, list []URL) {
	k.twice(texts(list), item(key), "the "+what)
	https := false
	for i, u := range list {
		if u != "" && !u.HTTPS() && https {
			k.add(item(key)(i), "http and https "+what+"s are mixed", "use one of them for all")
		}
		https = https || u.HTTPS()
	}
}

// access checks what the servers at urls, the value of the key named list, ask of their client.
func (k *checker) access(key, list string, urls []URL, c Access) {
	if t := c.TLS; t != nil {
		plain := slices.ContainsFunc(urls, func(u URL) bool { return u != "" && !u.HTTPS() })
		if plain && !slices.ContainsFunc(urls, URL.HTTPS) {
			k.add(key+".tls", "the "+list+" are http, so TLS would not be used", "write the "+list+" with https, or remove tls")
		}
		k.pair(key+".tls", "cert", "key")
		k.exposed(key+".tls.key", t.Key)
	}
	switch {
	case k.written(key+".password") && k.written(key+".password_file"):
		k.add(key+".password_file", "password and password_file are both written", "keep password_file")
	case k.written(key+".username") && !k.written(key+".password") && !k.written(key+".password_file"):
		k.add(key+".username", "there is a username and no password", "add password_file")
	}
	for _, s := range []string{".password", ".password_file"} {
		if k.written(key+s) && !k.written(key+".username") {
			k.add(key+s, "there is a password and no username", "add username")
		}
	}
	if c.PasswordFile != "" {
		k.exposed(key+".password_file", c.PasswordFile)
	}
}

// pair reports one of two keys that need each other.
func (k *checker) pair(key, a, b string) {
	if k.written(key+"."+a) != k.written(key+"."+b) {
		if k.written(key + "." + b) {
			a, b = b, a
		}
		k.add(key+"."+a, "there is "+a+" and no "+b, "write both or neither")
	}
}

func (k *checker) schedules(key string, cl *Cluster) {
	s, o := cl.Schedules, cl.Objectives
	for name, d := range map[string]Duration{"rpo": o.RPO, "rto": o.RTO, "drill_age": o.DrillAge} {
		k.positive(key+".objectives."+name, d)
	}
	k.positive(key+".schedules.deadline", s.Deadline)
	k.atLeastOne(key+".schedules.verify_count", s.VerifyCount)
	k.meets(key, "rpo", o.RPO, "snapshot", s.Snapshot, "a backup counts from the moment it began and exists only when it is done, so leave room for that")
	k.meets(key, "drill_age", o.DrillAge, "drill", s.Drill, "run drills more often or allow a longer drill_age")
	if len(cl.Recipients) == 0 || k.written(key+".identity_file") {
		return
	}
	if len(s.Drill) > 0 {
		k.add(key+".schedules.drill", "backups are encrypted and there is no identity_file, so a drill cannot read them",
			"add identity_file, or remove the schedule and drill where the identity is")
	}
	if len(s.Verify) > 0 {
		k.warn(key+".schedules.verify", "backups are encrypted and there is no identity_file, so only their stored bytes are verified",
			"add identity_file, or verify where the identity is as well")
	}
}

func (k *checker) meets(key, objective string, limit Duration, schedule string, cs Crons, advice string) {
	if limit == 0 {
		return
	}
	if len(cs) == 0 {
		if !k.faulty(key+".schedules."+schedule) && !k.written(key+".schedules."+schedule) {
			k.warn(key+".objectives."+objective, "no schedules."+schedule+" works towards it", "add one, unless requorum is started by something else")
		}
		return
	}
	if gap := cs.Gap(); gap >= time.Duration(limit) {
		k.add(key+".objectives."+objective, fmt.Sprintf("the schedule %s leaves up to %s between two runs, and the objective is %s",
			quote(strings.Join(texts(cs), ", ")), Duration(gap), limit), advice)
	}
}

func (k *checker) retention(key string, r Retention) {
	if k.written(key+".minimum") && r.Minimum < 1 && !k.reported(key+".minimum") {
		k.add(key+".minimum", "retention must keep at least one backup", "write 1 or more; the default is 3")
	}
	if r.Last+r.Hourly+r.Daily+r.Weekly+r.Monthly+r.Yearly == 0 && r.Within == 0 && !k.faultyRules(key) {
		k.add(key, "no rule keeps anything beyond the minimum", "write at least one of last, within, hourly, daily, weekly, monthly and yearly, or remove retention to keep all")
	}
}

func (k *checker) faultyRules(key string) bool {
	return slices.ContainsFunc([]string{"last", "within", "hourly", "daily", "weekly", "monthly", "yearly"}, func(n string) bool {
		return k.reported(key + "." + n)
	})
}

func (k *checker) thresholds(key string, t Thresholds) {
	if t.DatabaseWarning > 0 && t.DatabaseCritical > 0 && t.DatabaseWarning >= t.DatabaseCritical {
		k.add(key+".database_warning", t.DatabaseWarning.String()+" is not below database_critical, which is "+t.DatabaseCritical.String(), "warn before it is critical")
	}
	if t.CertificateWarning > 0 && t.CertificateWarning <= t.CertificateCritical {
		k.add(key+".certificate_warning", t.CertificateWarning.String()+" is not longer than certificate_critical, which is "+t.CertificateCritical.String(), "warn before it is critical")
	}
	if k.written(key+".observations") && t.Observations < 1 && !k.reported(key+".observations") {
		k.add(key+".observations", "nothing can be judged without an observation", "write 1 or more; the default is 3")
	}
}

// objectPath checks a path inside a store.
func (k *checker) objectPath(key, p string) {
	if clean := path.Clean(p); clean != strings.TrimSuffix(p, "/") || path.IsAbs(p) || clean == "." || strings.HasPrefix(clean, "..") || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' || r == '\\' || r == 0x7f }) {
		k.add(key, quote(p)+" is no path inside a store", "write names with / between them, such as prod/dcs")
	}
}

// repositories reports clusters whose backups would lie in one place, and stores of one cluster that are one.
func (k *checker) repositories() {
	type holder struct{ key, place string }
	var all []holder
	for _, cl := range k.Sorted() {
		mine := map[string]string{}
		for i, name := range cl.Stores {
			s := k.Stores[name]
			if s == nil || s.place() == "" {
				continue
			}
			if other, ok := mine[s.place()]; ok && other != name {
				k.add(item("clusters."+cl.Name+".stores")(i), "the stores "+other+" and "+name+" are the same place", "a copy there is no copy; name another")
				continue
			}
			if mine[s.place()] == name {
				continue
			}
			mine[s.place()] = name
			all = append(all, holder{"clusters." + cl.Name, strings.TrimSuffix(s.place(), "/") + "/" + strings.Trim(cl.Path, "/") + "/"})
		}
	}
	told := map[[2]string]bool{}
	for i, a := range all {
		for _, b := range all[:i] {
			if a.key == b.key || told[[2]string{a.key, b.key}] || !strings.HasPrefix(a.place, b.place) && !strings.HasPrefix(b.place, a.place) {
				continue
			}
			told[[2]string{a.key, b.key}] = true
			k.add(a.key+".path", "its backups would lie among those of "+b.key, "give each cluster a path of its own that is not inside the other's")
		}
	}
}

// place names where a store's objects are, to tell stores apart; empty when that did not decode.
func (s *Store) place() string {
	switch {
	case s.S3 != nil && s.S3.Bucket != "":
		return "s3 " + string(s.S3.Endpoint) + " " + s.S3.Bucket + "/" + strings.Trim(s.S3.Prefix, "/")
	case s.File != nil && s.File.Path != "":
		return "file " + string(s.File.Path)
	}
	return ""
}
