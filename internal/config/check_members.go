package config

import (
	"path"
	"slices"
	"strings"
	"unicode"
)

func (k *checker) members(key string, members []Member) {
	k.noneIn(key, len(members))
	column := func(name string, get func(Member) string) ([]string, func(int) string) {
		all := make([]string, len(members))
		for i, m := range members {
			all[i] = get(m)
		}
		return all, func(i int) string { return item(key)(i) + "." + name }
	}
	for _, c := range []struct {
		name, what string
		get        func(Member) string
	}{
		{"name", "the name", func(m Member) string { return m.Name }},
		{"peer_url", "the peer URL", func(m Member) string { return string(m.PeerURL) }},
		{"client_url", "the client URL", func(m Member) string { return string(m.ClientURL) }},
	} {
		values, at := column(c.name, c.get)
		k.twice(values, at, c.what)
	}
	for i, m := range members {
		k.member(item(key)(i), m)
		for j, other := range members[:i] {
			if m.Host == other.Host {
				k.apart(item(key)(i), item(key)(j), m, other)
			}
		}
	}
}

// apart reports directories of two members on one host that are the same or one inside the other.
func (k *checker) apart(key, otherKey string, m, other Member) {
	type named struct {
		name string
		dir  HostPath
	}
	dirs := func(m Member) []named { return []named{{".data_dir", m.DataDir}, {".wal_dir", m.WALDir}} }
	for _, mine := range dirs(m) {
		for _, theirs := range dirs(other) {
			if mine.dir != "" && (inside(mine.dir, theirs.dir) || theirs.dir != "" && inside(theirs.dir, mine.dir)) {
				k.add(key+mine.name, quote(string(mine.dir))+" and "+otherKey+theirs.name+" on the same host are the same or one inside the other", "give each member its own")
				break
			}
		}
	}
}

func (k *checker) member(key string, m Member) {
	if strings.ContainsFunc(m.Name, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) || strings.ContainsRune(",=/", r) }) {
		k.add(key+".name", quote(m.Name)+" is no member's name", "write what etcd has as --name, without spaces, commas, slashes and equals signs")
	}
	if m.PeerURL != "" && m.PeerURL == m.ClientURL {
		k.add(key+".client_url", "it is the same as peer_url", "peers and clients have ports of their own, by habit 2380 and 2379")
	}
	if m.WALDir != "" && m.DataDir != "" {
		switch {
		case inside(m.WALDir, m.DataDir):
			k.add(key+".wal_dir", "it lies in data_dir", "a restore needs etcd's --wal-dir outside of its --data-dir; remove the key if etcd has none")
		case inside(m.DataDir, m.WALDir):
			k.add(key+".wal_dir", "data_dir lies in it", "name the directory that etcd has as --wal-dir")
		}
	}
	k.service(key+".service", m)
}

// inside says whether a path is another or lies in it.
func inside(p, dir HostPath) bool {
	return dir != "" && (p == dir || strings.HasPrefix(string(p), string(dir)+"/"))
}

func (k *checker) service(key string, m Member) {
	s := m.Service
	commands := s.Start != "" || s.Stop != "" || s.Status != ""
	kinds := 0
	for _, set := range []bool{s.Systemd != "", s.StaticPod != "", commands} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		k.add(key, "more than one way to start and stop etcd", "write one of systemd, static_pod, or start, stop and status")
	case kinds == 0 && k.written(key) && !k.faulty(key):
		k.add(key, "no way to start and stop etcd", "write systemd, static_pod, or start, stop and status")
	case commands:
		for name, command := range map[string]string{"start": s.Start, "stop": s.Stop, "status": s.Status} {
			if command == "" && !k.written(key+"."+name) {
				k.add(key+"."+name, "the key is missing", "start, stop and status go together; status exits with 0 while etcd runs")
			}
		}
	}
	if kinds == 1 && !commands && (s.Inhibit != "" || s.Allow != "") {
		k.add(key, "inhibit and allow belong to start, stop and status", "remove them: systemd and static pods are inhibited in their own way")
	}
	k.pair(key, "inhibit", "allow")
	if strings.Trim(s.Systemd, unitLetters) != "" || strings.HasPrefix(s.Systemd, "-") {
		k.add(key+".systemd", quote(s.Systemd)+" is no name of a unit", "write it as systemctl takes it, such as etcd or etcd@main.service")
	} else if kind := path.Ext(s.Systemd); slices.Contains([]string{".socket", ".target", ".timer", ".path", ".mount", ".slice", ".scope"}, kind) {
		k.add(key+".systemd", quote(s.Systemd)+" is no service", "name the unit that runs etcd itself")
	}
	if strings.HasPrefix(path.Base(string(s.StaticPod)), ".") && s.StaticPod != "" {
		k.add(key+".static_pod", quote(string(s.StaticPod))+" is hidden, so the kubelet does not run it", "name the manifest in the directory that the kubelet watches, such as /etc/kubernetes/manifests/etcd.yaml")
	}
}

// unitLetters are what systemd allows in the names of units.
const unitLetters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.@\\"
