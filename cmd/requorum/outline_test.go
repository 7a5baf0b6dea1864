package main

import (
	"strings"
	"testing"
)

// What agents observed is readable for a person, whatever its shape, and cannot speak to the terminal.
func TestOutline(t *testing.T) {
	for name, test := range map[string]struct{ data, want string }{
		"a scope": {
			`{"scope":"/service/main","timeline":3,"members":[{"name":"a","state":"running"},{"name":"b","lsn":"0/3"}],"sync":{"leader":"a","standbys":["b","c"]},"paused":false}`,
			"  scope: /service/main\n  timeline: 3\n  members:\n    name a, state running\n    name b, lsn 0/3\n  sync:\n    leader: a\n    standbys: b, c\n  paused: false\n",
		},
		"several": {`[{"scope":"x"},{"scope":"y","members":[]}]`, "  -\n    scope: x\n  -\n    scope: y\n    members: none\n"},
		"nobody":  {`[]`, "  nothing\n"},
		"words":   {`["a",1,null,""]`, "  - a\n  - 1\n  - none\n  - \"\"\n"},
		"escapes": {`{"value\u001b]0;":"\u001b[2Jred\nline"}`, "  value·]0;: ·[2Jred·line\n"},
		"no JSON": {"{\"a\":\x1b", "  {\"a\":·\n"},
	} {
		var b strings.Builder
		outline(&b, "  ", []byte(test.data))
		if b.String() != test.want {
			t.Errorf("%s:\n%s--- want\n%s", name, b.String(), test.want)
		}
	}
}
