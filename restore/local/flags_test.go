package local

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/requorum/requorum/restore"
)

// What etcd would really do is read from arguments, environment and configuration file, in etcd's own order of precedence.
func TestSettings(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "etcd.yaml")
	if err := os.WriteFile(file, []byte(`# comment
name: "from-file"
data-dir: /var/lib/file   # a comment
listen-peer-urls: https://10.0.0.1:2380,https://127.0.0.1:2380
quota-backend-bytes: 8589934592
client-transport-security:
  cert-file: /etc/etcd/server.pem
peer-transport-security:
  cert-file: /etc/etcd/peer.pem
`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		args []string
		env  []string
		want restore.Flags
	}{
		{"both forms", []string{"--name=a", "-data-dir", "/d", "--force-new-cluster", "--wal-dir", "/w"}, nil,
			restore.Flags{Name: "a", DataDir: "/d", WALDir: "/w", ForceNewCluster: true}},
		{"relative", []string{"--data-dir", "d"}, nil, restore.Flags{DataDir: "/cwd/d"}},
		{"flags win over the environment", []string{"--name", "flag"}, []string{"ETCD_NAME=env", "ETCD_DATA_DIR=/env", "HOME=/root"},
			restore.Flags{Name: "flag", DataDir: "/env"}},
		{"the file wins over all", []string{"--name", "flag", "--config-file", file}, []string{"ETCD_DATA_DIR=/env"},
			restore.Flags{From: "x, config file " + file, Name: "from-file", DataDir: "/var/lib/file", QuotaBytes: 8 << 30,
				ListenPeer: []string{"https://10.0.0.1:2380", "https://127.0.0.1:2380"}, TLSFiles: []string{"/etc/etcd/server.pem", "/etc/etcd/peer.pem"}}},
	} {
		c.want.Complete = true
		if c.want.From == "" {
			c.want.From = "x"
		}
		if got := (&place{}).flags(settings(c.args, c.env), origin{from: "x", cwd: "/cwd", complete: true}); !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, *got, c.want)
		}
	}
}

func TestShellWords(t *testing.T) {
	for text, want := range map[string][]string{
		`nohup etcd --name 'a b' --data-dir="/x y" > /log 2>&1 &`: {"nohup", "etcd", "--name", "a b", "--data-dir=/x y", ">", "/log", "2>", "&", "1", "&"},
		`systemctl start etcd`: {"systemctl", "start", "etcd"},
		`a\ b;c`:               {"a b", ";", "c"},
	} {
		if got, _ := shellWords(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if _, plain := shellWords("etcd --name $HOSTNAME"); plain {
		t.Error("a variable counts as known")
	}
}
