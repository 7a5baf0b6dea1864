package drills

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/requorum/requorum/internal/claim"
	"github.com/requorum/requorum/restore"
)

// A Place is where one member of a sandbox lives.
type Place struct {
	Name, PeerURL, ClientURL string
	Dir                      string // of everything that belongs to the member
	DataDir                  string // in Dir
	InitialCluster           string // of all members, as etcd's flag has it
	QuotaBytes               int64  // of the backend; 0: none is known
}

// A sandbox is the directory of a drill, which a lock beside it shows to be in use.
type sandbox struct {
	dir    string
	lock   *os.File
	places []Place
	serves map[string]Server // by member
}

// A Server is the etcd of one place. It must end when this process does.
type Server interface {
	// Start returns when etcd serves, for which its cluster needs a quorum, or with an error that holds the end of its log. It may be called while etcd runs.
	Start(ctx context.Context) error
	// Stop ends the process at once and returns when it is gone. It may be called while none runs.
	Stop(ctx context.Context) error
	Running() bool
}

// stopTime bounds the end of one member, removeTime the removal of what it leaves.
const (
	stopTime   = 30 * time.Second
	removeTime = 30 * time.Second
)

func lockPath(dir string) string { return dir + ".lock" }

// newSandbox makes the directory of a drill in parent and finds places for the members on loopback.
func newSandbox(parent, id string, names []string, quota int64) (*sandbox, error) {
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory for drills: %w", err)
	}
	s := &sandbox{dir: filepath.Join(parent, "drill-"+id)}
	var err error
	if s.lock, err = claim.File(lockPath(s.dir)); err != nil {
		return nil, fmt.Errorf("lock the sandbox: %w", err)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return nil, errors.Join(fmt.Errorf("make the sandbox: %w", err), s.release())
	}
	urls, err := FreeURLs(2 * len(names))
	if err != nil {
		return nil, errors.Join(err, s.remove(context.Background()))
	}
	var initial []string
	for i, name := range names {
		dir := filepath.Join(s.dir, fmt.Sprintf("member%d", i+1))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, errors.Join(err, s.remove(context.Background()))
		}
		s.places = append(s.places, Place{Name: name, PeerURL: urls[2*i], ClientURL: urls[2*i+1], Dir: dir, DataDir: filepath.Join(dir, "data"), QuotaBytes: quota})
		initial = append(initial, name+"="+urls[2*i])
	}
	for i := range s.places {
		s.places[i].InitialCluster = strings.Join(initial, ",")
	}
	return s, nil
}

// secure makes the clients' URLs https, with files that write puts into the sandbox.
func (s *sandbox) secure(write func(dir string) error) error {
	for i := range s.places {
		s.places[i].ClientURL = "https" + strings.TrimPrefix(s.places[i].ClientURL, "http")
	}
	if err := write(s.dir); err != nil {
		return fmt.Errorf("certificates for the sandbox: %w", err)
	}
	return nil
}

// urls are those of the clients.
func (s *sandbox) urls() []string {
	var all []string
	for _, p := range s.places {
		all = append(all, p.ClientURL)
	}
	return all
}

// placed are the members as a restore knows them.
func (s *sandbox) placed(host func(find func(member string) Server) restore.Host, serve func(Place) Server) []restore.Placed {
	const child = "a child of the drill" // what a person would look for in vain
	s.serves = map[string]Server{}
	on := host(func(member string) Server { return s.serves[member] })
	var all []restore.Placed
	for _, p := range s.places {
		s.serves[p.Name] = serve(p)
		all = append(all, restore.Placed{On: on, Member: restore.Member{Name: p.Name, Host: "local", PeerURL: p.PeerURL, ClientURL: p.ClientURL,
			DataDir: p.DataDir, Service: restore.Service{Start: child, Stop: child, Status: child}}})
	}
	return all
}

// stop ends the members, which must not wait for ctx: a drill that was interrupted leaves nothing running either.
func (s *sandbox) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(s.places))
	for i, p := range s.places {
		if server := s.serves[p.Name]; server != nil {
			wg.Go(func() {
				if err := server.Stop(ctx); err != nil {
					errs[i] = fmt.Errorf("stop %s of the sandbox: %w", p.Name, err)
				}
			})
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// remove removes the sandbox. What it leaves when it fails the next sweep takes.
func (s *sandbox) remove(ctx context.Context) error {
	if err := removeSandbox(ctx, s.dir); err != nil {
		return errors.Join(err, s.lock.Close())
	}
	return s.release()
}

func (s *sandbox) release() error { return errors.Join(os.Remove(lockPath(s.dir)), s.lock.Close()) }

// removeSandbox removes a drill's directory. A process that is just being ended may still write into it, so it takes several attempts.
func removeSandbox(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	for {
		err := os.RemoveAll(dir)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove the sandbox: %w", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Sweep removes from dir the sandboxes of drills whose process is dead. Their members have died with it.
func Sweep(ctx context.Context, dir string, log *slog.Logger) {
	claim.Sweep(dir, "drill-*.lock", func(lock string) {
		sandbox := strings.TrimSuffix(lock, ".lock")
		err := removeSandbox(ctx, sandbox)
		if err == nil {
			err = os.Remove(lock)
		}
		if err != nil {
			log.Warn("the sandbox of a dead drill could not be removed", "error", err)
			return
		}
		log.Info("the sandbox of a dead drill is removed", "sandbox", sandbox)
	})
}

const (
	firstPort = 10_000
	lastPort  = 19_999
)

// FreeURLs returns http URLs of n different ports of 127.0.0.1 that nobody listens on now. They are below the range from which systems
// give ports to outgoing connections and to whoever asks for any, so that nobody gets one by chance while its member is down.
func FreeURLs(n int) ([]string, error) {
	var urls []string
	var open []net.Listener
	defer func() {
		for _, l := range open {
			_ = l.Close()
		}
	}()
	for range 1000 {
		if len(urls) == n {
			return urls, nil
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort+1)))
		if err != nil {
			continue // somebody else's
		}
		open = append(open, l)
		urls = append(urls, "http://"+l.Addr().String())
	}
	return nil, fmt.Errorf("find %d free ports: none between %d and %d can be listened on at 127.0.0.1", n, firstPort, lastPort)
}
