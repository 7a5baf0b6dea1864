package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/requorum/requorum/internal/etcdtest"
	"github.com/requorum/requorum/internal/etcdtest/command"
)

// The commands of the quickstart do, in their order and as they stand there, what it says of them. Only ports are others, waits are for what
// they are for, and the ordinary question is answered by a flag.
func TestQuickstart(t *testing.T) {
	if testing.Short() {
		t.Skip("starts etcd servers")
	}
	t.Parallel()
	needs(t, "bash", "ps", "pkill", "seq")
	text, err := os.ReadFile("../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	var script strings.Builder
	for _, block := range regexp.MustCompile("(?ms)^```sh\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		script.WriteString(block[1])
	}
	var substitutes []string
	client, last := "", ""
	for _, port := range []string{"22379", "32379", "2379", "22380", "32380", "2380"} { // the longer ones first
		free := strconv.Itoa(etcdtest.FreePort(t))
		substitutes = append(substitutes, port, free)
		switch port {
		case "2379":
			client = "http://127.0.0.1:" + free
		case "32379":
			last = "http://127.0.0.1:" + free
		}
	}
	for _, s := range [][2]string{
		{"sleep 3\n", "until etcdctl endpoint health --cluster >/dev/null 2>&1; do sleep 0.2; done\n"},
		{"requorum restore dcs\n", "requorum restore dcs --yes\n"},
		// It may be a moment behind the others, which lose their data.
		{"kill -9 $(cat etcd1.pid", "ETCDCTL_ENDPOINTS=" + last + " etcdctl get /orders/50 >/dev/null; kill -9 $(cat etcd1.pid"},
		{"spool_dir: spool\n", "spool_dir: spool\nallow_tmpfs_spool: true\n"},
	} {
		if strings.Count(script.String(), s[0]) != 1 {
			t.Fatalf("the quickstart does not hold %q once", s[0])
		}
		substitutes = append(substitutes, s[0], s[1])
	}

	home, programs := t.TempDir(), t.TempDir()
	for name, path := range map[string]string{"requorum": program, "etcd": etcdtest.Binary(t, "etcd", etcdtest.V36), "etcdctl": etcdtest.Binary(t, "etcdctl", etcdtest.Latest)} {
		if err := os.Symlink(path, filepath.Join(programs, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { // what is left when it fails half-way
		pids, _ := filepath.Glob(filepath.Join(home, "requorum-tour", "*.pid"))
		for _, file := range pids {
			b, _ := os.ReadFile(file)
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	env := []string{"HOME=" + home, "PATH=" + programs + ":" + os.Getenv("PATH"), "ETCDCTL_ENDPOINTS=" + client, "ETCDCTL_DIAL_TIMEOUT=2m", "ETCDCTL_COMMAND_TIMEOUT=2m"}
	r := command.Start(t, command.Options{Dir: home, Env: env}, "bash", "-uc", strings.NewReplacer(substitutes...).Replace(script.String())).Wait(t)
	rest := r.Stdout + r.Stderr
	for _, want := range []string{
		`requorum.yaml: ok, 1 cluster, 1 store, every endpoint, host and store answers`,
		`dcs: backup b\w+ at revision 4\d: 4[01] keys, .*, encrypted to 1 recipient\n`,
		`proof +ok +HashKV of a follower`,
		`: ok \(deep\)\n`,
		`restore of cluster dcs, run r\w+\n  source    store b\w+, revision 4\d `, // what --plan is for is data, on stdout
		`CRITICAL: dcs: 0 of 3 members healthy`,
		`restore r\w+: ok\n  source   survivor etcd3, revision 5\d `,
		`member   etcd3 healthy`,
		`agent    leased myapp/: RECONNECTED`,
		`RPO      0\.0 s`,
		`\n50\n`,
		`dcs: 3 of 3 members healthy`,
		`etcd3: removed `,
		`drill d\w+ of dcs: restore proven\n`,
		`\ndcs +drill +0 9 1 \*/3 \* `,
		`requorum: refused: cluster dcs is healthy`, // of stderr, which comes last here
		`  answer: --replace-healthy dcs\n`,
	} {
		at := regexp.MustCompile(want).FindStringIndex(rest)
		if at == nil {
			t.Fatalf("no %q (in what is left after the one before) of\n%s", want, r)
		}
		rest = rest[at[1]:]
	}
	if _, err := os.Stat(filepath.Join(home, "requorum-tour")); err == nil {
		t.Error(fmt.Sprint("the tour's directory is still there:\n", r))
	}
}
