package patroni

import (
	"encoding/json"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/agents/agentstest"
)

func paused(config []byte) ([]byte, error) { return withSetting(config, "pause", []byte("true")) }

func TestWithPause(t *testing.T) {
	tests := []struct{ in, want string }{
		{`{}`, `{"pause": true}`},
		{`{"ttl":30,"loop_wait":10}`, `{"ttl": 30, "loop_wait": 10, "pause": true}`},
		{`{"ttl":30,"pause":false,"loop_wait":10}`, `{"ttl": 30, "loop_wait": 10, "pause": true}`},
		{`{"pause":null}`, `{"pause": true}`},
		{`{"n":1.50,"big":12345678901234567890,"s":"\u00e9<>&","nested":{"b":1,"a":[1, 2]}}`,
			`{"n": 1.50, "big": 12345678901234567890, "s": "\u00e9<>&", "nested": {"b":1,"a":[1, 2]}, "pause": true}`},
	}
	for _, test := range tests {
		got, err := paused([]byte(test.in))
		if err != nil || string(got) != test.want {
			t.Errorf("%s: got %s, %v; want %s", test.in, got, err, test.want)
		}
	}
	for _, in := range []string{"", "null", "[]", `"pause"`, `{"ttl":`, `{"ttl":30`, `{"ttl" 30}`} {
		if got, err := paused([]byte(in)); err == nil {
			t.Errorf("%q became %s: agents would lose their settings", in, got)
		}
	}
}

func FuzzWithPause(f *testing.F) {
	for _, s := range []string{`{}`, dynamic, `{"pause":true,"pause":false}`, `{"a":{"b":[null]}}`, `{"a":`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		out, err := paused(value)
		if err != nil {
			return
		}
		var before, after map[string]any
		if json.Unmarshal(value, &before) != nil {
			return // trailing bytes: json.Decoder stops at the object's end
		}
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("%q became %q: %v", value, out, err)
		}
		if after["pause"] != true {
			t.Fatalf("%q became %q, which is not paused", value, out)
		}
		delete(before, "pause")
		delete(after, "pause")
		if len(before) != len(after) || !maps.EqualFunc(before, after, func(a, b any) bool { return reflect.DeepEqual(a, b) }) {
			t.Fatalf("%q became %q: other settings changed", value, out)
		}
	})
}

// Whatever stands in etcd must neither panic nor be lost: a leased key of a
// scope is always decided.
func FuzzScope(f *testing.F) {
	f.Add([]byte(dynamic), []byte(sysID), []byte(memberValue("master", 1)), []byte(history), []byte(`{"leader":"a","sync_standby":"b"}`))
	f.Add([]byte(`{"standby_cluster":{"host":"x"},"synchronous_mode":"quorum"}`), []byte("x"), []byte("postgres://"), []byte(`[[1]]`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, config, initialize, member, hist, sync []byte) {
		const dir = "/service/main/"
		kv := agentstest.NewBackup().Grant(1, 30).
			Put(dir+"config", string(config), 0).Put(dir+"initialize", string(initialize), 0).Put(dir+"leader", "a", 1).
			Put(dir+"members/a", string(member), 1).Put(dir+"history", string(hist), 0).Put(dir+"sync", string(sync), 0).
			Put(dir+"failover", string(sync), 0).Put(dir+"status", string(hist), 0).Put(dir+"optime/leader", string(initialize), 0)
		factsOf(recognise(kv))
		a, err := New(Options{Scope: "main"})
		if err != nil {
			t.Fatal(err)
		}
		edits, err := a.Edits(kv, agents.Options{OpenPaused: true, PatroniSync: agents.PatroniSyncRemove, AcceptUnverified: []string{"main"}})
		if err != nil {
			t.Fatal(err)
		}
		removed := map[string]bool{}
		for _, e := range edits {
			removed[strings.TrimPrefix(e.Key, dir)] = e.Value == nil && !e.Keep
		}
		for _, rel := range []string{"leader", "members/a", "failover"} {
			if !removed[rel] {
				t.Fatalf("%s stays: %+v", rel, edits)
			}
		}
		for _, rel := range []string{"config", "initialize", "history", "status", "optime/leader"} {
			if removed[rel] {
				t.Fatalf("%s goes: %+v", rel, edits)
			}
		}
	})
}

func TestParseHistory(t *testing.T) {
	got, ok := parseHistory([]byte(history))
	if !ok || len(got) != 2 || got[1] != (change{Timeline: 2, LSN: 33554592, Leader: "db1"}) {
		t.Errorf("got %+v, %v", got, ok)
	}
	if got, ok := parseHistory([]byte(`[[1,25110200,"no recovery target specified"]]`)); !ok || got[0].LSN != 25110200 {
		t.Errorf("a row without time: got %+v, %v", got, ok)
	}
	for _, bad := range []string{"", "null", "{}", "[1]", "[[1,2]]", `[["a",2,""]]`, `[[1,-2,""]]`} {
		if got, ok := parseHistory([]byte(bad)); ok {
			t.Errorf("%s is taken as a history: %+v", bad, got)
		}
	}
}

func TestSwitches(t *testing.T) {
	for value, want := range map[string]bool{
		`{"pause":true}`: true, `{"pause":"on"}`: true, `{"pause":"True"}`: true, `{"pause":1}`: true,
		`{"pause":false}`: false, `{"pause":null}`: false, `{}`: false, `{"pause":{}}`: false, `nonsense`: false,
	} {
		if got := parseConfig([]byte(value)).paused(); got != want {
			t.Errorf("%s: paused %v, want %v", value, got, want)
		}
	}
	for value, want := range map[string]bool{
		`{"synchronous_mode":true}`: true, `{"synchronous_mode":"quorum"}`: true, `{"synchronous_mode":"off"}`: false, `{}`: false,
	} {
		if got := parseConfig([]byte(value)).synchronous(); got != want {
			t.Errorf("%s: synchronous %v, want %v", value, got, want)
		}
	}
	for value, want := range map[string]bool{
		`{"standby_cluster":{"host":"10.0.0.1"}}`: true, `{"standby_cluster":{}}`: false, `{"standby_cluster":null}`: false, `{}`: false,
	} {
		if got := parseConfig([]byte(value)).standby(); got != want {
			t.Errorf("%s: standby cluster %v, want %v", value, got, want)
		}
	}
}
