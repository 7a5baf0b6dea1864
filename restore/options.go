package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/storage/catalog"
)

// Options say what to restore, where to, and with which parts. The zero value of every field that
// is not marked as needed has a sensible meaning.
type Options struct {
	Cluster string   // needed
	Members []Placed // needed: every configured member, also those in Without

	// The operator's answers; each is the flag of the same name.
	At, From       string
	Without        []string // members left out
	Fenced         []string // members that are surely powered off
	ReplaceHealthy string   // the cluster's name; set after [New] to a member's for [Restorer.ReplaceMember]
	DiscardWrites  bool     // a rollback may give up what clients wrote since
	Resume         bool     // there must be an unfinished run to go on with
	TakeOver       string   // the run whose dead owner's locks may be taken
	TargetVersion  string   // of the servers; empty: asked on the hosts, else the manifest's
	Agents         []agents.Configured
	AgentOptions   agents.Options // Baselines are filled in here
	AgentDeadline  time.Duration  // for their verdicts, from etcd healthy; default 2 minutes
	HealthDeadline time.Duration  // for all members to be healthy, from the start; default 2 minutes

	Owner      Owner      // needed: this process, as the owner of locks
	Repository Repository // needed
	// Connect makes a client of the named endpoints, with the cluster's TLS and credentials. Needed.
	Connect func(endpoints []string) (*cluster.Client, error)
	// Credentials are what Connect logs in with; they are compared with the users in the backup.
	Credentials Credentials
	// TLSProblems are what is wrong with the TLS files that Connect uses, found by whoever read them.
	TLSProblems []string
	// Predict starts an etcd once, in a child process, on a copy of a prepared database and returns the HashKV that it computes at
	// revision rev. It must not change the file.
	Predict func(ctx context.Context, db string, rev int64) (dbfile.HashKV, error) // needed
	// Replay starts an etcd once, in a child process, on a data dir that dbfile.StageRecovery made, and stops it in order when it has
	// applied its whole raft log. Without it only what is stored is restored, not what members still hold; a rollback needs it.
	Replay func(ctx context.Context, dataDir string) error
	// Backup takes a first backup of the new line, on behalf of run, and returns its id; nil takes none.
	Backup func(ctx context.Context, run string) (id string, err error)
	// Askable returns an error if Confirm cannot be put, for want of a terminal, say. It is called with no more of the plan than its kind and members,
	// before anything of it is looked up or fetched; nil means that it can.
	Askable func(plan Plan) error
	// Confirm puts the ordinary question, with the plan; nil means yes.
	Confirm func(ctx context.Context, plan Plan) (bool, error)

	// Elsewhere, if given, has the backups: those of another cluster, which this one, with members of its own, becomes a copy of.
	Elsewhere *Elsewhere

	SpoolDir string // needed: databases pass through it in plain text
	Command  string // needed: how this program is called for this cluster's configuration, for the commands that messages name: "requorum -c FILE"
	Version  string // of this program, for records
	Progress Progress
	Log      *slog.Logger
	Now      func() time.Time
}

// Placed is a member with the host that it lives on.
type Placed struct {
	Member
	On Host
}

// Credentials are those of the cluster's clients here. CommonName is that of the client certificate, by which etcd knows a user that gives no name.
type Credentials struct {
	Username, Password, CommonName string
}

// Backups are the stored ones. *repository.Repository is one.
type Backups interface {
	// Snapshots returns the committed backups of all stores that answer. The others make an error beside them.
	Snapshots(ctx context.Context) ([]catalog.Snapshot, error)
	Lines(ctx context.Context) ([]catalog.Line, error)
	Manifest(ctx context.Context, snap catalog.Snapshot) (catalog.Manifest, error)
	// Fetch writes the checked database to dst.
	Fetch(ctx context.Context, snap catalog.Snapshot, m catalog.Manifest, dst *os.File, progress func(n int64)) error
}

// Records are what runs leave in the stores. *repository.Repository is one.
type Records interface {
	Runs(ctx context.Context, since time.Time) ([]catalog.Run, error)
	Record(ctx context.Context, run catalog.Run) error
	OpenLine(ctx context.Context, line catalog.Line) error
	// DrillFailure says why a drill failed.
	DrillFailure(ctx context.Context, d catalog.Drill) (string, error)
}

// Holds keep backups from being expired while a restore is under way. *repository.Repository is one.
type Holds interface {
	CreateHold(ctx context.Context, hold catalog.Hold) error
	ReleaseHold(ctx context.Context, run string) error
}

// Repository is what a restore needs of one.
type Repository interface {
	Backups
	Records
	Holds
}

// Progress is told of stages. It is called from several goroutines.
type Progress interface {
	Start(stage string, total int64) // bytes, 0 if unknown
	Advance(stage string, n int64)
	Done(stage, detail string)
	Say(format string, args ...any) // a line between the stages
}

func (o *Options) complete() error {
	if o.AgentDeadline <= 0 {
		o.AgentDeadline = 2 * time.Minute
	}
	if o.HealthDeadline <= 0 {
		o.HealthDeadline = 2 * time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	var errs []error
	if o.Cluster == "" || o.SpoolDir == "" || o.Command == "" || o.Connect == nil || o.Predict == nil || o.Repository == nil || o.Owner.Token == "" {
		errs = append(errs, errors.New("options are incomplete: cluster, spool dir, command, owner, repository, connect and predict are needed"))
	}
	if len(o.Members) == 0 {
		errs = append(errs, fmt.Errorf("cluster %s has no members configured: a restore needs to know where to rebuild them", o.Cluster))
	}
	seen := map[string]string{} // what must be unique, with whose it is
	for _, m := range o.Members {
		errs = append(errs, m.check())
		if m.On == nil {
			errs = append(errs, fmt.Errorf("member %s has no host", m.Name))
		}
		for what, value := range map[string]string{"name": m.Name, "peer_url": m.PeerURL, "client_url": m.ClientURL, "data_dir": m.Host + " " + filepath.Clean(m.DataDir)} {
			if other, taken := seen[what+value]; taken {
				errs = append(errs, fmt.Errorf("members %s and %s have the same %s", other, m.Name, what))
			}
			seen[what+value] = m.Name
		}
	}
	for _, name := range o.Without {
		if _, ok := seen["name"+name]; !ok {
			errs = append(errs, fmt.Errorf("--without %s: cluster %s has no such member", name, o.Cluster))
		}
	}
	if o.ReplaceHealthy != "" && o.ReplaceHealthy != o.Cluster {
		errs = append(errs, fmt.Errorf("--replace-healthy %s: the cluster to restore is %s", o.ReplaceHealthy, o.Cluster))
	}
	return errors.Join(errs...)
}

func (m Member) check() error {
	var errs []error
	for what, value := range map[string]string{"peer_url": m.PeerURL, "client_url": m.ClientURL} {
		u, err := url.Parse(value)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			errs = append(errs, fmt.Errorf("member %s: %s %q is not a URL such as https://10.0.0.1:2380", m.Name, what, value))
		} else if u.Port() == "" {
			errs = append(errs, fmt.Errorf("member %s: %s %q needs a port", m.Name, what, value))
		}
	}
	if m.Name == "" {
		errs = append(errs, errors.New("a member has no name"))
	}
	if !filepath.IsAbs(m.DataDir) || filepath.Clean(m.DataDir) == "/" {
		errs = append(errs, fmt.Errorf("member %s: data_dir %q is not an absolute path", m.Name, m.DataDir))
	}
	if m.WALDir != "" && !filepath.IsAbs(m.WALDir) {
		errs = append(errs, fmt.Errorf("member %s: wal_dir %q is not an absolute path", m.Name, m.WALDir))
	}
	return errors.Join(append(errs, m.Service.check(m.Name))...)
}

func (s Service) check(member string) error {
	commands := s.Start != "" || s.Stop != "" || s.Status != "" || s.Inhibit != "" || s.Allow != ""
	switch {
	case s.Systemd != "" && s.StaticPod != "", commands && (s.Systemd != "" || s.StaticPod != ""):
		return fmt.Errorf("member %s: service is more than one of a systemd unit, a static pod and commands", member)
	case s.StaticPod != "" && !filepath.IsAbs(s.StaticPod):
		return fmt.Errorf("member %s: static_pod %q is not an absolute path", member, s.StaticPod)
	case s.Systemd != "" || s.StaticPod != "":
		return nil
	}
	var errs []error
	for what, command := range map[string]string{"start": s.Start, "stop": s.Stop, "status": s.Status} {
		if command == "" {
			errs = append(errs, fmt.Errorf("member %s: service has no %s command", member, what))
		}
	}
	if (s.Inhibit == "") != (s.Allow == "") {
		errs = append(errs, fmt.Errorf("member %s: service needs both inhibit and allow, or neither", member))
	}
	return errors.Join(errs...)
}

type silent struct{}

func (silent) Start(string, int64)   {}
func (silent) Advance(string, int64) {}
func (silent) Done(string, string)   {}
func (silent) Say(string, ...any)    {}
