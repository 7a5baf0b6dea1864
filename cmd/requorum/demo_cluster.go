package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/seal"
)

const demoCluster = "demo"

// demoConfig is a real configuration: the demo runs on it as a user would.
var demoConfig = template.Must(template.New("requorum.yaml").Parse(`# Written by requorum demo: three members on this machine.
clusters:
  demo:
    endpoints: [{{range $i, $m := .Members}}{{if $i}}, {{end}}{{$m.ClientURL}}{{end}}]
    stores: [demo]
    recipients: [{{.Recipient}}]
    identity_file: age.key
    schedules: {snapshot: "@every 2s"}
    objectives: {rpo: 1m, rto: 1m}
    members:
{{- range .Members}}
      - name: {{.Name}}
        host: local
        peer_url: {{.PeerURL}}
        client_url: {{.ClientURL}}
        data_dir: {{.DataDir}}
        service:
          start: {{.Start}}
          stop: {{.Stop}}
          status: {{.Status}}
{{- end}}
    agents:
      - leased: {prefix: /demo/, expect: [{{range $i, $k := .Expect}}{{if $i}}, {{end}}{{$k}}{{end}}]}
stores:
  demo: {{.Store}}
spool_dir: {{.Dir}}/spool
allow_tmpfs_spool: true
`))

type demoMember struct {
	Name, PeerURL, ClientURL, DataDir, Start, Stop, Status string
}

// demoSite is the demo's machine room: a directory with everything in it.
type demoSite struct {
	dir     string
	members []config.Member
	target  *target
}

// newDemoSite lays everything out in dir: keys, configuration, commands. storeURL may be empty.
func newDemoSite(a *app, dir, storeURL string, expect []string) (*demoSite, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program's own file, to start members with: %w", err)
	}
	ports, err := drills.FreeURLs(6)
	if err != nil {
		return nil, err
	}
	var members []demoMember
	var initial []string
	for i := range 3 {
		m := demoMember{Name: fmt.Sprintf("etcd%d", i+1), PeerURL: ports[2*i], ClientURL: ports[2*i+1]}
		m.DataDir = filepath.Join(dir, m.Name, "data")
		members = append(members, m)
		initial = append(initial, m.Name+"="+m.PeerURL)
	}
	for i := range members {
		m := &members[i]
		pid := filepath.Join(dir, m.Name, "pid")
		m.Start = yamlQuote(fmt.Sprintf("%s member --name %s --data-dir %s --listen-client %s --listen-peer %s --initial-cluster %s --initial-cluster-token first --log-file %s --while %d & echo $! > %s",
			shellQuote(self), m.Name, shellQuote(m.DataDir), m.ClientURL, m.PeerURL, strings.Join(initial, ","), shellQuote(filepath.Join(dir, m.Name, "etcd.log")), os.Getpid(), shellQuote(pid)))
		// A killed process can linger as a zombie where nobody reaps; that is not alive.
		alive := fmt.Sprintf(`p=$(cat %s 2>/dev/null) && grep -q '^State:.[^Z]' "/proc/$p/status" 2>/dev/null`, shellQuote(pid))
		m.Status = yamlQuote(alive)
		m.Stop = yamlQuote(fmt.Sprintf(`if %s; then kill "$p"; while %s; do sleep 0.05; done; fi`, alive, alive))
		if err := os.MkdirAll(filepath.Dir(m.DataDir), 0o700); err != nil {
			return nil, err
		}
	}
	key, err := seal.NewKey()
	if err != nil {
		return nil, err
	}
	if err := writeNew(filepath.Join(dir, "age.key"), []byte(key.Identity+"\n")); err != nil {
		return nil, err
	}
	store, err := storeYAML(storeURL, filepath.Join(dir, "store"))
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = demoConfig.Execute(&text, map[string]any{"Members": members, "Recipient": key.Recipient, "Expect": expect, "Store": store, "Dir": dir})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "requorum.yaml")
	if err := writeNew(path, text.Bytes()); err != nil {
		return nil, err
	}
	cfg, err := config.Load(path, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	t, err := a.targetIn(cfg, demoCluster)
	if err != nil {
		return nil, err
	}
	return &demoSite{dir: dir, target: t, members: t.cluster.Members}, nil
}

// start runs every member's own start command, as a restore does.
func (s *demoSite) start() error {
	var group errgroup.Group
	for _, m := range s.members {
		group.Go(func() error { return shell(m.Service.Start) })
	}
	return group.Wait()
}

// shell runs a start command: in a session of its own, so that Ctrl-C does not reach what it starts, and to its end, so that what it
// starts is known.
func shell(command string) error {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

// storeYAML is a store as the configuration has it: of a URL, else of a directory. JSON is YAML too.
func storeYAML(rawURL, dir string) (string, error) {
	fields := map[string]any{"file": map[string]any{"path": dir}}
	if rawURL != "" {
		st, err := config.ParseStoreURL(rawURL)
		if err != nil {
			return "", err
		}
		if st.File != nil {
			fields = map[string]any{"file": map[string]any{"path": st.File.Path}}
		} else {
			all := map[string]any{"bucket": st.S3.Bucket, "prefix": st.S3.Prefix, "region": st.S3.Region, "endpoint": st.S3.Endpoint,
				"path_style": st.S3.PathStyle, "ca": st.S3.CA, "profile": st.S3.Profile, "storage_class": st.S3.StorageClass,
				"sse": st.S3.SSE, "kms_key": st.S3.KMSKey}
			maps.DeleteFunc(all, func(_ string, v any) bool { return reflect.ValueOf(v).IsZero() })
			fields = map[string]any{"s3": all}
		}
	}
	text, err := json.Marshal(fields)
	return string(text), err
}

// destroy is the disaster: every member is killed where it stands and its data removed.
func (s *demoSite) destroy() error {
	var errs []error
	for _, m := range s.members {
		errs = append(errs, s.kill(m))
	}
	for _, m := range s.members {
		errs = append(errs, os.RemoveAll(string(m.DataDir)))
	}
	return errors.Join(errs...)
}

func (s *demoSite) kill(m config.Member) error {
	text, err := os.ReadFile(filepath.Join(s.dir, m.Name, "pid"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return fmt.Errorf("the pid file of %s holds %q", m.Name, text)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill -9 of %s (pid %d): %w", m.Name, pid, err)
	}
	for deadline := time.Now().Add(demoWait); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) { // a disk that stalls holds it
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err != nil || bytes.Contains(status, []byte("State:\tZ")) {
			return os.Remove(filepath.Join(s.dir, m.Name, "pid"))
		}
	}
	return fmt.Errorf("%s (pid %d) is still there %s after kill -9", m.Name, pid, demoWait)
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// yamlQuote writes a string so that YAML, and the configuration's ${VAR}, take it literally.
func yamlQuote(s string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(s, "$", "$$"), "'", "''") + "'"
}
