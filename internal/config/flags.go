package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Flags are what a command line may give instead of a configuration file. Paths are relative to the working directory; ${VAR}
// is left to the shell.
type Flags struct {
	Cluster         string   // the cluster's name; default: default
	Endpoints       []string // may be empty: list and verify need none
	Stores          []string // URLs: s3://bucket/prefix?region=…, file:///path
	Path            string   // in the stores; default the cluster's name
	TLS             TLS
	Username        string
	PasswordFile    string
	Recipients      []string
	IdentityFile    string
	SpoolDir        string // default as in a file for root, else in the user's cache directory
	AllowTmpfsSpool bool
}

// flagNames says which flag a key of such a configuration comes from.
var flagNames = []struct{ key, flag string }{
	{".endpoints", "--endpoints"}, {".path", "--path"},
	{".tls.ca", "--ca"}, {".tls.cert", "--cert"}, {".tls.key", "--key"}, {".tls.server_name", "--server-name"},
	{".username", "--username"}, {".password_file", "--password-file"},
	{".recipients", "--recipient"}, {".identity_file", "--identity-file"}, {"spool_dir", "--spool-dir"}, {"stores", "--store"},
}

// FromFlags builds a configuration without a file: one cluster and its stores, named main, store2, store3 and so on. Its problems name
// flags.
func FromFlags(f Flags) (*Config, error) {
	name := f.Cluster
	if name == "" {
		name = "default"
	}
	var problems Problems
	if len(f.Stores) == 0 {
		problems = append(problems, Problem{File: "command line", Key: "--store", What: "no store was given", Advice: "give --store s3://bucket/prefix or --store file:///path"})
	}
	stores, names := mapping(), list()
	for i, raw := range f.Stores {
		s, err := storeNode(raw)
		if err != nil {
			problems = append(problems, Problem{File: "command line", Key: "--store", What: err.Error(), Advice: "write s3://bucket/prefix?region=…&endpoint=…, or file:///path"})
			continue
		}
		n := "main"
		if i > 0 {
			n = fmt.Sprintf("store%d", i+1)
		}
		set(stores, n, s)
		set(names, "", text(n))
	}
	if problems != nil {
		return nil, problems
	}
	cluster := mapping()
	set(cluster, "endpoints", textList(f.Endpoints))
	tls := mapping()
	set(tls, "ca", text(string(f.TLS.CA)))
	set(tls, "cert", text(string(f.TLS.Cert)))
	set(tls, "key", text(string(f.TLS.Key)))
	set(tls, "server_name", text(f.TLS.ServerName))
	set(cluster, "tls", tls)
	set(cluster, "username", text(f.Username))
	set(cluster, "password_file", text(f.PasswordFile))
	set(cluster, "stores", names)
	set(cluster, "path", text(f.Path))
	set(cluster, "recipients", textList(f.Recipients))
	set(cluster, "identity_file", text(f.IdentityFile))
	clusters, root := mapping(), mapping()
	set(clusters, name, cluster)
	set(root, "clusters", clusters)
	set(root, "stores", stores)
	spool := f.SpoolDir
	if spool == "" && os.Geteuid() != 0 {
		if cache, err := os.UserCacheDir(); err == nil {
			spool = filepath.Join(cache, "requorum", "spool")
		}
	}
	set(root, "spool_dir", text(spool))
	if f.AllowTmpfsSpool {
		set(root, "allow_tmpfs_spool", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: "true"})
	}
	dir, err := filepath.Abs(".")
	if err != nil {
		return nil, err
	}
	c, err := decode(&decoder{file: "command line", dir: dir, lookup: func(string) (string, bool) { return "", false }}, root)
	if err == nil {
		return c, nil
	}
	ps, _ := errors.AsType[Problems](err)
	for i, p := range ps {
		local := strings.TrimPrefix(p.Key, "clusters."+name)
		for _, f := range flagNames {
			if strings.HasPrefix(local, f.key) {
				ps[i].Key = f.flag
				break
			}
		}
	}
	return c, ps
}

// ParseStoreURL reads a store from s3://bucket/prefix?parameters or file:///path. The parameters are the keys of s3 in a configuration
// file, without the secrets: a URL is seen in ps and shell histories.
func ParseStoreURL(raw string) (*Store, error) {
	c, err := FromFlags(Flags{Stores: []string{raw}})
	if err != nil {
		return nil, err
	}
	return c.Stores["main"], nil
}

func storeNode(raw string) (*yaml.Node, error) {
	u, err := url.Parse(raw)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, fmt.Errorf("a store's URL that is none: %w", err)
	}
	if u.User != nil {
		return nil, errors.New("a store's URL with a user or a key in it would be seen in ps; use the AWS environment variables or a profile")
	}
	s, inner := mapping(), mapping()
	switch u.Scheme {
	case "file":
		if u.Host != "" || u.Path == "" || u.RawQuery != "" {
			return nil, fmt.Errorf("%s: a directory's URL has three slashes and a path, as in file:///mnt/backups", quote(raw))
		}
		set(inner, "path", text(u.Path))
		set(s, "file", inner)
	case "s3":
		if u.Host == "" {
			return nil, fmt.Errorf("%s names no bucket", quote(raw))
		}
		set(inner, "bucket", text(u.Host))
		set(inner, "prefix", text(strings.Trim(path.Clean("/"+u.Path), "/")))
		query, err := url.ParseQuery(u.RawQuery)
		if err != nil {
			return nil, fmt.Errorf("the parameters of %s: %w", quote(raw), err)
		}
		if err := s3Parameters(inner, query); err != nil {
			return nil, err
		}
		set(s, "s3", inner)
	default:
		return nil, fmt.Errorf("%s is no store's URL", quote(raw))
	}
	return s, nil
}

func s3Parameters(into *yaml.Node, query url.Values) error {
	for _, name := range sortedKeys(query) {
		value := query[name]
		var known *field
		for _, f := range fields(reflect.TypeFor[S3]()) {
			if f.name == name && name != "bucket" && name != "prefix" {
				known = &f
			}
		}
		switch {
		case known == nil:
			return fmt.Errorf("a store's URL has the unknown parameter %s: %s", quote(name), meant(name, reflect.TypeFor[S3]()))
		case known.typ == reflect.TypeFor[Secret](), name == "access_key", name == "secret_key_file":
			return fmt.Errorf("%s in a store's URL would be seen in ps; use the AWS environment variables or a profile", name)
		case len(value) > 1 || value[0] == "":
			return fmt.Errorf("the parameter %s of a store's URL needs exactly one value", name)
		}
		n := text(value[0])
		if known.typ.Kind() == reflect.Bool {
			n.Tag = "!!bool"
		}
		set(into, name, n)
	}
	return nil
}

// The functions below build YAML nodes. set leaves out what is empty.

func mapping() *yaml.Node { return &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"} }

func list() *yaml.Node { return &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"} }

// text is a text that is meant as it is, dollar signs too.
func text(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(strings.ReplaceAll(s, "$", "$$"))
	return n
}

func textList(values []string) *yaml.Node {
	l := list()
	for _, v := range values {
		l.Content = append(l.Content, text(v))
	}
	return l
}

func set(into *yaml.Node, key string, value *yaml.Node) {
	if value.Kind == yaml.ScalarNode && value.Value == "" || value.Kind != yaml.ScalarNode && len(value.Content) == 0 {
		return
	}
	if into.Kind == yaml.MappingNode {
		k := &yaml.Node{}
		k.SetString(key)
		into.Content = append(into.Content, k)
	}
	into.Content = append(into.Content, value)
}
