package config

import (
	"path"
	"strings"
)

// Patroni is one Patroni scope. Its Access is that of the REST API. Without REST the agents are found by the keys that they
// registered.
type Patroni struct {
	Scope     string `key:"scope,required"`
	Namespace string `key:"namespace" default:"/service"`
	REST      []URL  `key:"rest" default:"(found in the backup)"`
	Access
	Deadline Duration `key:"deadline" default:"5m"`
}

func (p *Patroni) name() string {
	if p.Scope == "" {
		return ""
	}
	return path.Join("/", p.Namespace, p.Scope) // one scope's name may stand in two namespaces
}

func (p *Patroni) owns(keep string) (where string, kept bool) {
	if p.Scope == "" {
		return "", false
	}
	where = strings.TrimSuffix(p.Namespace, "/") + "/" + p.Scope + "/"
	return where, strings.HasPrefix(where, keep) || strings.HasPrefix(keep, where)
}

func (p *Patroni) check(k *checker, key string) {
	if strings.Contains(p.Scope, "/") {
		k.add(key+".scope", quote(p.Scope)+" has a / in it", "write the scope as in patroni.yml, and what comes before it as namespace")
	}
	if !strings.HasPrefix(p.Namespace, "/") && k.written(key+".namespace") && !k.reported(key+".namespace") {
		k.add(key+".namespace", quote(p.Namespace)+" does not begin with /", "write it like /service")
	}
	k.urls(key+".rest", "REST URL", p.REST)
	k.access(key, "REST URLs", p.REST, p.Access)
	k.positive(key+".deadline", p.Deadline)
}
