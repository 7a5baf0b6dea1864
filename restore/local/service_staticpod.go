package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/requorum/requorum/restore"
)

// staticPod is a pod that the kubelet runs for as long as its manifest lies in the directory that it watches.
//
// To stop it, the manifest is moved into the state directory, under its own name and heldSuffix, and back to start it. It is
// copied, made durable and only then removed, so that at every moment one of the two places has it. The kubelet ignores
// names that begin with a dot: writeFile's temporary files are never run.
type staticPod struct {
	*place
	manifest string
}

const (
	heldSuffix = ".held"
	// A held manifest gets this suffix when somebody has put another one in its place.
	replacedSuffix = ".replaced"
	// podPatience is how long a pod may take to end: the kubelet looks every 20 s where it gets no notice, and grants 30 s.
	podPatience = 2 * time.Minute
	// resumePatience is how long kube-apiserver is waited for before what needs it is given back too.
	resumePatience = time.Minute
	podPoll        = 200 * time.Millisecond
)

// companions are the programs of a control plane that must not see etcd change, in the order in which they come back.
var companions = []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler"}

func (s staticPod) held(manifest string) string {
	return filepath.Join(s.state, filepath.Base(manifest)+heldSuffix)
}

// status is active where the manifest is in place and a kubelet runs, which starts the pod sooner or later. A pod that runs without either is found
// by its process.
func (s staticPod) status(context.Context) (status, error) {
	_, err := os.Stat(s.manifest)
	if gone(err) {
		return status{output: s.manifest + " is not in place"}, nil
	}
	kubelet := false
	if err == nil {
		kubelet, err = kubeletRuns()
	}
	if err != nil {
		return status{}, fmt.Errorf("%s: %w", s.member.Name, err)
	}
	return status{active: kubelet, output: s.manifest + " is in place", open: s.manifest + " is in place"}, nil
}

func kubeletRuns() (bool, error) {
	found, err := programs(func(argv []string) string {
		if filepath.Base(argv[0]) == "kubelet" {
			return "is the kubelet"
		}
		return ""
	})
	return len(found) > 0, err
}

func (s staticPod) do(ctx context.Context, a restore.Action) error {
	var err error
	switch a {
	case restore.ActInhibit:
		err = s.inhibit()
	case restore.ActStop:
		err = s.stop(ctx)
	case restore.ActAllow:
		err = s.allow()
	case restore.ActStart:
		err = s.release(s.manifest)
	case restore.ActResume:
		err = s.resume(ctx)
	}
	var known *restore.HostError
	if err != nil && !errors.As(err, &known) {
		err = fmt.Errorf("%s: %s: %w", s.member.Name, a, err)
	}
	return err
}

// inhibit takes the manifests away, those of etcd's clients first.
func (s staticPod) inhibit() error {
	clients, err := s.companions()
	if err != nil {
		return err
	}
	for _, c := range append(clients, s.manifest) {
		if err := s.hold(c); err != nil {
			return err
		}
	}
	return nil
}

// companions are the manifests of the control plane's other programs in the same directory.
func (s staticPod) companions() ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(s.manifest))
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		path := filepath.Join(filepath.Dir(s.manifest), e.Name())
		if path == s.manifest || strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		if pod, err := readPod(path); err == nil && slices.Contains(companions, pod.program()) {
			found = append(found, path)
		}
	}
	return found, nil
}

// hold moves a manifest into the state directory.
func (s staticPod) hold(manifest string) error {
	data, err := os.ReadFile(manifest)
	held := s.held(manifest)
	if gone(err) {
		if _, herr := os.Stat(held); herr != nil && manifest == s.manifest {
			return s.fault(restore.HostChanged, "bring it back", "%s is not there, and not held in %s either", manifest, s.state)
		}
		return nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(manifest)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(held)
	switch {
	case err == nil && !bytes.Equal(before, data): // somebody wrote a new one meanwhile: it counts, but none is lost
		if err := os.Rename(held, held+replacedSuffix); err != nil {
			return err
		}
	case err != nil && !gone(err):
		return err
	}
	if err := writeLike(held, data, info); err != nil {
		return err
	}
	if err := os.Remove(manifest); err != nil && !gone(err) {
		return err
	}
	return syncDir(filepath.Dir(manifest))
}

// release moves a held manifest back. One that somebody has put there meanwhile stays.
func (s staticPod) release(manifest string) error {
	held := s.held(manifest)
	data, err := os.ReadFile(held)
	if gone(err) {
		if _, err := os.Stat(manifest); gone(err) && manifest == s.manifest {
			return s.fault(restore.HostChanged, "bring it back, and run the same command again", "%s is not there, and not held in %s either", manifest, s.state)
		} else if err != nil && !gone(err) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	info, err := os.Stat(held)
	if err != nil {
		return err
	}
	now, err := os.ReadFile(manifest)
	switch {
	case gone(err):
		if err := writeLike(manifest, data, info); err != nil {
			return err
		}
	case err != nil:
		return err
	case !bytes.Equal(now, data):
		if err := os.Rename(held, held+replacedSuffix); err != nil {
			return err
		}
		return syncDir(s.state)
	}
	if err := os.Remove(held); err != nil {
		return err
	}
	return syncDir(s.state)
}

// writeLike writes a file durably, with the mode and the owner of another.
func writeLike(path string, data []byte, like fs.FileInfo) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".requorum-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Chmod(like.Mode().Perm()); err != nil {
		tmp.Close()
		return err
	}
	if st, ok := like.Sys().(*syscall.Stat_t); ok {
		if err := tmp.Chown(int(st.Uid), int(st.Gid)); err != nil {
			tmp.Close()
			return err
		}
	}
	_, err = tmp.Write(data)
	return finish(tmp, err, path)
}

// stop waits for the pods to go: taking the manifests away was all that there is to do.
func (s staticPod) stop(ctx context.Context) error {
	if st, err := s.status(ctx); err != nil {
		return err
	} else if st.open != "" {
		return s.fault(restore.HostRunning, "find out who does, and run the same command again", "somebody put %s back", s.manifest)
	}
	deadline := time.Now().Add(max(podPatience, s.member.Service.Timeout))
	for {
		u, err := s.usedBy(ctx)
		if err != nil {
			return err
		}
		clients, err := s.running()
		if err != nil {
			return err
		}
		u.processes = append(u.processes, clients...)
		if u.stopped() {
			return nil
		}
		if time.Now().After(deadline) {
			return s.fault(restore.HostRunning, "is the kubelet running? It has to stop the pod: systemctl status kubelet",
				"%s after its manifest was moved away: %s", podPatience, u)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(podPoll):
		}
	}
}

// running finds the processes of the held control plane.
func (s staticPod) running() ([]restore.Process, error) {
	held, err := s.heldCompanions()
	if err != nil {
		return nil, err
	}
	var pods []pod
	for _, h := range held {
		if p, err := readPod(s.held(h)); err == nil {
			pods = append(pods, p)
		}
	}
	return programs(func(argv []string) string {
		for _, p := range pods {
			if p.runsAs(argv) {
				return "is what " + p.Metadata.Name + "'s manifest starts"
			}
		}
		return ""
	})
}

// heldCompanions are the places of the control plane's held manifests, in the order in which they come back.
func (s staticPod) heldCompanions() ([]string, error) {
	files, err := filepath.Glob(filepath.Join(globQuote(s.state), "*"+heldSuffix))
	if err != nil {
		return nil, err
	}
	order := map[string]int{}
	var found []string
	for _, file := range files {
		path := filepath.Join(filepath.Dir(s.manifest), strings.TrimSuffix(filepath.Base(file), heldSuffix))
		if path == s.manifest {
			continue
		}
		p, err := readPod(file)
		if err != nil {
			return nil, err
		}
		order[path] = slices.Index(companions, p.program())
		found = append(found, path)
	}
	slices.SortFunc(found, func(a, b string) int { return order[a] - order[b] })
	return found, nil
}

// allow brings etcd back where the old data dir is in place: then everything is to be as it was. The new one waits for its start. Where there
// is no old member either, the manifest stays held: the kubelet would begin an empty one at once.
func (s staticPod) allow() error {
	j, err := s.ownJournal()
	if err != nil {
		return err
	}
	where, _, err := s.placeOf(j.Here)
	if err != nil {
		return err
	}
	if _, err := os.Stat(s.manifest); gone(err) && (where != restore.PlaceOld || !s.holds()) {
		return nil
	}
	return s.release(s.manifest)
}

// resume gives the control plane back: kube-apiserver, and, as soon as that listens, what needs it.
func (s staticPod) resume(ctx context.Context) error {
	held, err := s.heldCompanions()
	if err != nil {
		return err
	}
	for _, manifest := range held {
		server, err := readPod(s.held(manifest))
		if err != nil {
			return err
		}
		if err := s.release(manifest); err != nil {
			return err
		}
		if server.program() == companions[0] {
			if err := s.await(ctx, server); err != nil {
				return err
			}
		}
	}
	return nil
}

// await waits a while for an API server to listen. What needs it tries again by itself.
func (s staticPod) await(ctx context.Context, server pod) error {
	url := "https://0.0.0.0:" + server.port() // whatever address it listens on
	deadline := time.Now().Add(resumePatience)
	for time.Now().Before(deadline) {
		if ports, err := listening(ctx, url); err != nil || len(ports) > 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(podPoll):
		}
	}
	return nil
}

// look reads the manifest, wherever it is.
func (s staticPod) look(context.Context) (o outlook) {
	path := s.manifest
	if _, err := os.Stat(path); gone(err) {
		path = s.held(s.manifest)
	}
	p, err := readPod(path)
	switch {
	case gone(err):
		o.problem("service", "%s is not there: correct service.static_pod of member %s, or bring the manifest back; if the pod is to stay stopped, put it at %s, where a restore keeps it", s.manifest, s.member.Name, s.held(s.manifest))
		return o
	case err != nil:
		o.problem("service", "%v", err)
		return o
	}
	clients, err := s.companions()
	if err != nil {
		o.problem("service", "%v", err)
	}
	for _, m := range append(clients, s.manifest) {
		if info, err := os.Lstat(m); err == nil && !info.Mode().IsRegular() {
			o.problem("service", "%s is no plain file but %s: a restore could not bring it back as it is; put the manifest itself there", m, info.Mode().Type())
		}
	}
	for _, dir := range []string{filepath.Dir(s.manifest), filepath.Dir(s.state)} {
		if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
			o.problem("permissions", "%s cannot be written to: %v; run requorum as root, or with sudo", dir, err)
		}
	}
	if runs, err := kubeletRuns(); err == nil && !runs {
		o.warn("service", "no kubelet runs here: it must by the time that a restore comes to the step start, and before if the pod still runs: systemctl status kubelet")
	}
	c := p.etcd()
	if c == nil {
		o.problem("service", "%s has no container that runs etcd", path)
		return o
	}
	set, complete := c.settings()
	if dir := set["data-dir"]; dir != "" && p.host(c, dir) == "" {
		o.problem("flags", "data dir %s of %s lies on no hostPath of the pod: what a restore puts on the host would not be there", dir, path)
	}
	o.flags = s.flags(set, origin{from: "manifest " + s.manifest, complete: complete, host: func(path string) string { return p.host(c, path) }})
	o.version = c.version()
	o.owner = p.owner(c)
	return o
}
