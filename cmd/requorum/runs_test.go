package main

import (
	"encoding/json"
	"testing"

	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/storage/catalog"
)

// Every run says what it worked on, restores from something else than a backup too.
func TestRunsSayWhat(t *testing.T) {
	of := func(kind, id string, members ...string) json.RawMessage {
		r := restore.Report{Source: restore.ReportSource{Kind: kind, ID: id}}
		for _, m := range members {
			r.Members = append(r.Members, restore.ReportMember{Name: m})
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for want, run := range map[string]catalog.Run{
		"bw3p7e7ggvd4":                {Kind: "restore", Snapshot: "bw3p7e7ggvd4", Detail: of("store", "bw3p7e7ggvd4")},
		"survivor etcd2":              {Kind: "restore", Detail: of("survivor", "etcd2", "etcd1", "etcd2")},
		"file /tmp/a.db":              {Kind: "restore", Detail: of("file", "/tmp/a.db")},
		"the dirs before r0123456789": {Kind: "rollback", Detail: of("before", "r0123456789")},
		"member etcd3":                {Kind: "replace", Detail: of("cluster", "dcs", "etcd3")},
		"no member answered":          {Kind: "restore", Error: "no member answered", Detail: of("survivor", "etcd2")},
		"":                            {Kind: "watch", Detail: json.RawMessage(`[1]`)},
	} {
		if got := about(run); got != want {
			t.Errorf("%s run says %q, want %q", run.Kind, got, want)
		}
	}
}
