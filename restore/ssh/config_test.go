package ssh

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestConfiguration reads files as ssh(1) does: where there is one, it is asked, too.
func TestConfiguration(t *testing.T) {
	c := newClient(t)
	c.file("more", "Port 2201\nHost inner\n  Port 2202\n")
	dir := filepath.Dir(c.file("final", "IdentityFile ~/.ssh/late\nUser late\n"))
	sshProgram, _ := exec.LookPath("ssh") // without it the table stands alone
	for _, test := range []struct {
		name, config, alias, key string
		want                     []string
	}{
		{"the first counts", "User a\nUser b", "x", "user", []string{"a"}},
		{"an equals sign, quotes and a comment", "User = \"a b\" # why", "x", "user", []string{"a b"}},
		{"an equals sign without spaces", "User=a", "x", "user", []string{"a"}},
		{"patterns", "Host *.a ?b\n User u", "cb", "user", []string{"u"}},
		{"case", "HOST x\n USER u", "x", "user", []string{"u"}},
		{"another case", "Host X\n User u", "x", "user", nil},
		{"another case, where that does not count", "Match host X\n User u", "x", "user", []string{"u"}},
		{"no pattern", "Host a\n User u", "x", "user", nil},
		{"what is excluded", "Host * !x\n User u", "x", "user", nil},
		{"several add up, each once", "IdentityFile a\nHost x\nIdentityFile b\nIdentityFile a", "x", "identityfile", []string{"a", "b"}},
		{"include", "Include DIR/more", "x", "port", []string{"2201"}},
		{"include where it counts only", "Host y\n Include DIR/more\nHost *\n Port 9", "x", "port", []string{"9"}},
		{"a host block of an included file ends with it", "Host *\n Include DIR/more\n User u", "inner", "user", []string{"u"}},
		{"include nothing", "Include DIR/missing*\nUser u", "x", "user", []string{"u"}},
		{"match all", "Host y\nMatch all\n User u", "x", "user", []string{"u"}},
		{"match the name that is connected to", "HostName 10.0.0.1\nMatch host 10.0.0.*\n User u", "x", "user", []string{"u"}},
		{"match the name that was asked for", "HostName 10.0.0.1\nMatch originalhost x\n User u", "x", "user", []string{"u"}},
		{"match another name", "HostName 10.0.0.1\nMatch host x\n User u", "x", "user", nil},
		{"match the user", "User u\nMatch user root,u\n Port 7", "x", "port", []string{"7"}},
		{"match the user who is named", "User u\nMatch user u\n Port 7", "root@x", "port", nil},
		{"match who works here", "Match localuser " + me() + "\n Port 7", "x", "port", []string{"7"}},
		{"match not", "Match !host y originalhost=x\n Port 7", "x", "port", []string{"7"}},
		{"match both", "Match host x user nobody\n Port 7", "x", "port", nil},
		{"match final", "Match final all\n User u\nHost *\n User first", "x", "user", []string{"first"}},
		{"match final, with a file, as Fedora has it", "Match final all\n Include DIR/final\nHost *\n Port 7", "x", "user", []string{"late"}},
		{"a command is the rest of the line", `ProxyCommand  sh -c "nc %h %p" 'it " is' # no comment` + "  ", "x", "proxycommand", []string{`sh -c "nc %h %p" 'it " is' # no comment`}},
		{"a command after an equals sign", "ProxyCommand = nc -X5 -x=a %h %p", "x", "proxycommand", []string{"nc -X5 -x=a %h %p"}},
		{"commands that are not for the way", "LocalCommand sh -c \"a b\"\nRemoteCommand 'c d'\nUser u", "x", "user", []string{"u"}},
		{"a command before a jump", "ProxyCommand nc\nProxyJump gate", "x", "proxyjump", nil},
		{"a jump before a command", "Host x\n ProxyJump gate\nHost *\n ProxyCommand nc", "x", "proxycommand", nil},
		{"a jump that counts", "Host y\n ProxyCommand nc\nHost *\n ProxyJump gate", "x", "proxyjump", []string{"gate"}},
		{"no command, and so no jump", "ProxyCommand none\nProxyJump gate", "x", "proxyjump", nil},
		{"match by a program, which is not run", "Match exec \"touch /nonexistent\"\n User u", "x", "user", nil},
	} {
		file := c.file("config", strings.ReplaceAll(test.config, "DIR", dir)+"\n")
		files, err := (Options{}).configs()
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		login, alias, ok := strings.Cut(test.alias, "@")
		if !ok {
			login, alias = "", test.alias
		}
		if got := ask(files[:1], alias, login).values[test.key]; !slices.Equal(got, test.want) {
			t.Errorf("%s: %s is %q, not %q", test.name, test.key, got, test.want)
		}
		if sshProgram == "" || strings.Contains(test.config, "exec") || test.want == nil && test.key == "identityfile" {
			continue
		}
		out, err := exec.Command(sshProgram, "-G", "-F", file, test.alias).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", test.name, err, out)
		}
		want := test.want
		if want == nil && strings.HasPrefix(test.key, "proxy") {
			if strings.Contains("\n"+string(out), "\n"+test.key+" ") {
				t.Errorf("%s: ssh itself has a %s:\n%s", test.name, test.key, out)
			}
			continue
		}
		if want == nil {
			want = []string{map[string]string{"user": first(login, me()), "port": "22"}[test.key]}
		}
		for _, v := range want {
			if !strings.Contains("\n"+string(out), "\n"+test.key+" "+v+"\n") {
				t.Errorf("%s: %s is not %q by ssh itself:\n%s", test.name, test.key, v, out)
			}
		}
	}
	for _, test := range []struct{ config, want string }{
		{"User u\nPort\n", "config:2: Port says nothing"},
		{"User \"u\n", "config:1: a quote is not closed"},
		{"Include config\n", "include each other"},
	} {
		file := c.file("config", test.config)
		if _, err := (Options{}).configs(); err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), filepath.Dir(file)) {
			t.Errorf("%q: %v, not %q", test.config, err, test.want)
		}
	}
}

// TestPassedOver shows that what is not followed, and may be why a host is not reached, is told with the error.
func TestPassedOver(t *testing.T) {
	c := newClient(t)
	s := startServer(t, c.key.PublicKey())
	c.file("config", "Compression yes\nBindInterface eth7\nKnownHostsCommand none\nMatch exec true\n  User other\n")
	_, h := c.open(s.addr, nil)
	err := h.Check(t.Context())
	config := filepath.Join(c.home, ".ssh", "config")
	if err == nil || !strings.Contains(err.Error(), "also says bindinterface ("+config+":2), Match exec ("+config+":4), which requorum does not follow") {
		t.Errorf("a host that is not known: %v", err)
	}
	c.knows(s)
	if err := h.Check(t.Context()); err != nil {
		t.Errorf("a host that is reached all the same: %v", err)
	}
}

// TestProgramsBeside shows which programs nobody named may be brought to hosts.
func TestProgramsBeside(t *testing.T) {
	dir := t.TempDir()
	self, path := filepath.Join(dir, "requorum"), filepath.Join(dir, "requorum-linux-arm64")
	for _, p := range []string{self, path} {
		if err := os.WriteFile(p, nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if !asTrusted(path, self) {
		t.Error("a program of the same owner is not taken")
	}
	if err := os.Chmod(path, 0o775); err != nil {
		t.Fatal(err)
	}
	if asTrusted(path, self) {
		t.Error("one that a group may write is taken")
	}
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+"2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(path+"2", path); err != nil {
		t.Fatal(err)
	}
	if asTrusted(path, self) {
		t.Error("a symbolic link is taken, whoever owns what it leads to")
	}
	if os.Getuid() == 0 {
		if err := os.Chown(path+"2", 1500, 1500); err != nil {
			t.Fatal(err)
		}
		if asTrusted(path+"2", self) {
			t.Error("one of somebody else is taken")
		}
	}
}
