package main

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// closed is a pipe that nobody reads any more.
func closed(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return w
}

// Work does not end because nobody reads what is said on the way, as a restore would between two steps when the program that it is piped to
// dies; and data that nobody reads is no error worth words.
func TestClosedPipe(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	if err := os.WriteFile("requorum.yaml", []byte("clusters: {dcs: {endpoints: [http://127.0.0.1:1], stores: [main]}}\nstores: {main: {file: {path: .}}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	var out strings.Builder
	cmd := exec.Command(exe)
	cmd.Args = []string{"requorum", "keygen", "-f", "a.key"} // which says where the key is on stderr, and then prints
	cmd.Stdout, cmd.Stderr = &out, closed(t)
	if err := cmd.Run(); err != nil || !strings.HasPrefix(out.String(), "age1") {
		t.Errorf("with stderr closed: %v, printed %q", err, out.String())
	}

	var said strings.Builder
	cmd = exec.Command(exe)
	cmd.Args = []string{"requorum", "list"}
	cmd.Stdout, cmd.Stderr = closed(t), &said
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != exitError || said.String() != "" {
		t.Errorf("with stdout closed: %v, said %q; want exit code %d and silence", err, said.String(), exitError)
	}
}
