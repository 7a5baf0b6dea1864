package command

import (
	"testing"
)

// What a command says is met as it comes, and its end and output are all there.
func TestCommand(t *testing.T) {
	t.Parallel()
	c := Start(t, Options{Dir: t.TempDir(), Env: []string{"WORD=there"}, Through: []string{"env", "MORE=x"}},
		"/bin/sh", "-c", `echo first 1 >&2; echo out; read line; echo $WORD$MORE second 2 >&2; exit 14`)
	c.Reaches(t, "first")
	c.Prints(t, "out")
	c.Says(t, "therex")
	r := c.Wait(t).Exits(t, ExitRefused, "out", "therex second 2")
	if r.Stdout != "out\n" || r.Args[0] != "sh" {
		t.Errorf("it left %+v", r)
	}
	if r := Start(t, Options{}, "sleep", "600").Kill(t); r.Code != -1 {
		t.Errorf("killed, it left %+v", r)
	}
	var v struct{ OK bool }
	if Run(t, Options{}, "echo", `{"ok": true}`).Decode(t, &v); !v.OK {
		t.Error("the JSON was not read")
	}
}
