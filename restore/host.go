package restore

import (
	"context"
	"io"
	"time"
)

// A Host is a machine on which members live. Every request is about one member and carries all
// that the host needs to know; requests and replies are plain JSON values, so an implementation may
// run the same code on another machine. Requests about different members may run at once; requests about one member do not.
//
// Obstacles that a coordinator treats apart come back as [*HostError]. A cancelled context ends a
// request as soon as that leaves the host in a state that a repeated request can go on from.
type Host interface {
	// Inspect reports what the member's place holds and who uses it. It changes nothing.
	Inspect(ctx context.Context, req InspectRequest) (State, error)

	// Apply does one action, durably. An action that is already done is not done again; one that was cut off is
	// completed. Every action but [ActLock] and [ActPrune] is refused unless the request's Owner holds the lock.
	Apply(ctx context.Context, req ApplyRequest) error

	// Stage builds a complete data dir, and WAL dir if apart, beside the member's present one from
	// the database that it reads, and makes it durable. A staged dir of the same run that already
	// holds this very database is kept and db is not read; any other of this run is replaced. What arrived of a db that is a [Transfer]
	// is kept when that breaks off, and the next one goes on from there.
	// Nothing that the member uses is touched. On failure no complete staged dir is left.
	Stage(ctx context.Context, req StageRequest, db io.Reader) error

	// Fetch writes the database file of one of the member's data dirs to w, or what its raft log has beyond that. A missing one is
	// fs.ErrNotExist; a database in use by a process is [HostRunning], a raft log in use is read all the same.
	Fetch(ctx context.Context, req FetchRequest, w io.Writer) error
}

// HostLocal is this machine.
const HostLocal = "local"

// A Member is one place where a restore builds a member.
type Member struct {
	Name      string  `json:"name"`
	Host      string  `json:"host"` // as configured: HostLocal, or ssh://…
	PeerURL   string  `json:"peer_url"`
	ClientURL string  `json:"client_url"`
	DataDir   string  `json:"data_dir"`
	WALDir    string  `json:"wal_dir,omitempty"` // empty: inside the data dir
	Service   Service `json:"service"`
}

// A Service is how a member's etcd is started and stopped: a systemd unit, a static pod, or commands of one's own. Exactly one of
// Systemd, StaticPod and Start is set.
//
// A systemd unit is started and stopped through systemctl. Starts are forbidden by a drop-in below /etc/systemd/system, which holds
// across reboots and against everybody: the unit then fails its assertion.
//
// A static pod is started by the kubelet, which watches the directory of its manifest. The manifest is moved into the member's state
// directory until the exchange is done; those of kube-apiserver, kube-controller-manager and kube-scheduler in the same directory
// go with it, and come back by [ActResume], once etcd is proven.
//
// Commands are run by /bin/sh -c, each in a session of its own, without a terminal, and without requorum's standard streams.
//
//   - Start brings etcd up and returns; etcd must go on in the background. It may be called while etcd runs, and may wait
//     until etcd is ready: requorum starts all members at once.
//   - Stop returns once the process is gone. It may be called while etcd does not run.
//   - Status exits with 0 if the process exists, and with anything else if not.
//   - Inhibit, if given, makes every start fail, a reboot's too, until Allow is run. Without it a marker file stands
//     in the member's state directory ([State].Marker) meanwhile; requorum never starts a member while the marker is there, and a start command or unit can test for it.
type Service struct {
	Systemd   string `json:"systemd,omitempty"`    // the unit, with or without .service
	StaticPod string `json:"static_pod,omitempty"` // path of the manifest in the directory that the kubelet watches

	Start   string `json:"start,omitempty"`
	Stop    string `json:"stop,omitempty"`
	Status  string `json:"status,omitempty"`
	Inhibit string `json:"inhibit,omitempty"`
	Allow   string `json:"allow,omitempty"`
	// Timeout bounds each command; 0 means [DefaultCommandTimeout].
	Timeout time.Duration `json:"timeout,omitempty"`
}

const (
	// DefaultCommandTimeout bounds a service command that has no timeout of its own.
	DefaultCommandTimeout = 90 * time.Second
	// Beat is how often a coordinator renews its locks.
	Beat = 5 * time.Second
	// StaleAfter is the age of a heartbeat from which a lock may be taken over on request.
	StaleAfter = 60 * time.Second
)

// EndsAgain is how often an etcd that was started must have ended by itself before nobody waits for the service manager, which starts it again each time.
// Once or twice may be chance: a name that does not resolve yet, a disk that is not mounted yet.
const EndsAgain = 3

// An InspectRequest asks about one member. Run may be empty: then no run's staged or kept dirs are looked at
// and the newest journal is reported.
type InspectRequest struct {
	Member Member `json:"member"`
	Run    string `json:"run,omitempty"`
	// Deep also reads the flags of the process or start command and the version of the program.
	Deep bool `json:"deep,omitempty"`
	// Verify compares the staged or exchanged dirs with what was staged, file by file.
	Verify bool `json:"verify,omitempty"`
	// Log also reads how far the raft log goes: that of the dirs that the run Run kept, if it did, else that of the present ones.
	Log bool `json:"log,omitempty"`
}

// Action is something a host does with one member's place.
type Action string

// The actions, in the order of a restore. All but lock need the lock.
const (
	ActLock     Action = "lock"     // take the lock, write the journal; with TakeOver also from an owner that is gone
	ActBeat     Action = "beat"     // renew the lock's heartbeat
	ActRecord   Action = "record"   // replace the plan in the journal
	ActInhibit  Action = "inhibit"  // forbid starts across reboots
	ActStop     Action = "stop"     // stop, until the process is gone and its ports are closed
	ActExchange Action = "exchange" // the staged dirs become the member's, the old ones are kept
	ActAllow    Action = "allow"    // lift the inhibition
	ActStart    Action = "start"    // start; the intent is journaled first
	ActResume   Action = "resume"   // give back what was stopped together with the member: a Kubernetes control plane
	ActRevert   Action = "revert"   // undo the exchange; the staged dirs are kept
	ActDiscard  Action = "discard"  // remove the run's staged dirs
	ActUnlock   Action = "unlock"   // end the run here: keep its journal, give the lock back
	ActRelease  Action = "release"  // give the lock back while the run goes on later
	ActPrune    Action = "prune"    // remove the dirs that the run kept
)

// An ApplyRequest asks for one action on one member's place.
type ApplyRequest struct {
	Action Action `json:"action"`
	Member Member `json:"member"`
	Run    string `json:"run"`
	Owner  Owner  `json:"owner"`
	Plan   *Plan  `json:"plan,omitempty"` // with ActLock and ActRecord
	// TakeOver, with ActLock, is the run whose lock may be taken although its owner is not proven
	// gone, if its heartbeat is older than [StaleAfter].
	TakeOver string `json:"take_over,omitempty"`
	// Gone, with ActLock, is the token of an owner that its own machine has proven gone: its lock counts as dead.
	Gone string `json:"gone,omitempty"`
}

// An Owner is the coordinator of a run. Token tells two coordinators of one run apart: after a
// take-over the former one's requests are refused.
type Owner struct {
	Token string `json:"token"`
	User  string `json:"user"`
	Host  string `json:"host"`
	Boot  string `json:"boot"` // the boot id of that host, empty if unknown
	PID   int    `json:"pid"`
	Start string `json:"start"` // the process's start time as /proc has it, empty if unknown
}

// A Lock is the content of a member's lock file.
type Lock struct {
	Run string `json:"run"`
	Owner
	Since     time.Time `json:"since"`
	Heartbeat time.Time `json:"heartbeat"`
}

// A StageRequest describes the staged member.
type StageRequest struct {
	Member Member `json:"member"`
	Run    string `json:"run"`
	Owner  Owner  `json:"owner"`
	// InitialCluster maps every new member's name to its peer URLs.
	InitialCluster map[string][]string `json:"initial_cluster"`
	Token          string              `json:"token"`
	Size           int64               `json:"size"`     // of the database, in bytes
	Checksum       string              `json:"checksum"` // of the database, see NewChecksum
	// Join stages no database but the identity of a member that a running cluster has added; db is not read then, and of the fields above
	// only Checksum counts, as a name for what is staged.
	Join *Join `json:"join,omitempty"`
	// Take allows a host on this machine to move the file that it is given, where it would copy it: nobody else needs it any more.
	Take bool `json:"-"`
}

// Join is the identity of a member that a running cluster has added.
type Join struct {
	ClusterID string `json:"cluster_id"` // 16 hex digits
	MemberID  string `json:"member_id"`  // 16 hex digits
}

// A FetchRequest names the data dir to read from: the one kept by the run Before, or the member's
// own if that is empty.
type FetchRequest struct {
	Member Member `json:"member"`
	Before string `json:"before,omitempty"`
	// Log asks for the entries of the raft log above index After, in the form of dbfile.CopyLog, and not for the database.
	Log   bool   `json:"log,omitempty"`
	After uint64 `json:"after,omitempty"`
}

// Place says which dirs a member's configured paths lead to, as a run sees it.
type Place string

// The places. A member is never empty at any of them but [PlaceOld] of a member that had been lost
// before the run began.
const (
	PlaceOld     Place = "old"     // what was there before the run
	PlaceHalf    Place = "half"    // an exchange or its undoing was cut off; repeating either completes it
	PlaceNew     Place = "new"     // what this run staged
	PlaceUnknown Place = "unknown" // neither: somebody else changed the place
)

// State is what a member's place on a host holds.
type State struct {
	Member    string    `json:"member"`
	Host      string    `json:"host"` // the machine's own name
	Place     Place     `json:"place"`
	Detail    string    `json:"detail,omitempty"` // with half and unknown: what was found
	DataDir   string    `json:"data_dir"`         // with symbolic links resolved
	Exists    bool      `json:"exists"`           // the data dir holds a member
	Before    string    `json:"before,omitempty"` // where the old dir is kept, once exchanged
	Staged    string    `json:"staged,omitempty"` // Checksum of the database staged completely by the run
	Intact    bool      `json:"intact"`           // with Verify: staged or exchanged dirs are as they were staged
	Inhibited bool      `json:"inhibited"`
	Marker    string    `json:"marker"` // path of the marker file
	Running   []Process `json:"running,omitempty"`
	// Active is what the status command says, StatusOutput what it printed.
	Active       bool   `json:"active"`
	StatusOutput string `json:"status_output,omitempty"`
	// Exits is how often etcd has ended by itself since somebody started it, as a service manager counts that starts it again each time.
	Exits int `json:"exits,omitempty"`
	// Ports are those of the member's URLs that something listens on.
	Ports   []Port   `json:"ports,omitempty"`
	Lock    *Lock    `json:"lock,omitempty"`
	Dead    bool     `json:"dead,omitempty"` // the lock's owner is proven gone
	Journal *Journal `json:"journal,omitempty"`

	FreeBytes   int64     `json:"free_bytes"`        // where the data dir would be staged
	Device      string    `json:"device,omitempty"`  // with Deep: the file system that FreeBytes is of
	WALFree     int64     `json:"wal_free"`          // where a WAL dir apart would be staged, else 0
	DataBytes   int64     `json:"data_bytes"`        // of the present database file
	LastWrite   time.Time `json:"last_write"`        // newest change of a WAL file
	Flags       *Flags    `json:"flags,omitempty"`   // with Deep
	Version     string    `json:"version,omitempty"` // with Deep: of the etcd program, if it could be asked
	Problems    []Problem `json:"problems,omitempty"`
	AtomicSwaps bool      `json:"atomic_swaps"`           // the file system can exchange two dirs at once
	MaxDatabase int64     `json:"max_database,omitempty"` // the largest, in bytes, that requorum can open there; 0: any
	Log         *RaftLog  `json:"log,omitempty"`          // with Log, unless there is no member
}

// A RaftLog is how far a member's dirs go. Term and Index are those of the last entry: by these, the term first, raft judges which of
// two members is further on.
type RaftLog struct {
	ClusterID string    `json:"cluster_id"` // 16 hex digits
	Term      uint64    `json:"term"`
	Index     uint64    `json:"index"`
	Commit    uint64    `json:"commit"`            // known here to be committed
	Damage    string    `json:"damage,omitempty"`  // where and why it ends before its end
	Problem   string    `json:"problem,omitempty"` // why it cannot be read at all; then Term and Index are the database's
	Written   time.Time `json:"written"`           // its last change
	// What the database file holds of it; zero if a process has it open.
	DBIndex    uint64 `json:"db_index,omitempty"`
	DBRevision int64  `json:"db_revision,omitempty"`
	DBBytes    int64  `json:"db_bytes,omitempty"`
	Version    string `json:"version,omitempty"` // of the cluster, such as 3.5.0
}

// Stopped says whether the member is proven down: its status command, its processes and its ports
// all say so.
func (s State) Stopped() bool { return !s.Active && len(s.Running) == 0 && len(s.Ports) == 0 }

// Opened says whether the new member may have run: its start was begun, or its dirs are no longer
// as they were staged. It needs a state with Verify.
func (s State) Opened() bool {
	return s.Journal != nil && !s.Journal.Here.StartBegun.IsZero() || s.Place == PlaceNew && !s.Intact
}

// A Process uses a member's place.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	How     string `json:"how"` // how it was recognised
}

// A Port is one that something listens on.
type Port struct {
	URL   string `json:"url"`
	PID   int    `json:"pid,omitempty"` // 0: not known
	Owner string `json:"owner,omitempty"`
}

// Flags are the settings that a member's etcd really has, or would have, by its process or its start command.
// An empty field is not known.
type Flags struct {
	From            string   `json:"from"` // "process 123", "start command", "config file …"
	Name            string   `json:"name,omitempty"`
	DataDir         string   `json:"data_dir,omitempty"`
	WALDir          string   `json:"wal_dir,omitempty"`
	ListenPeer      []string `json:"listen_peer,omitempty"`
	ListenClient    []string `json:"listen_client,omitempty"`
	AdvertisePeer   []string `json:"advertise_peer,omitempty"`
	AdvertiseClient []string `json:"advertise_client,omitempty"`
	QuotaBytes      int64    `json:"quota_bytes,omitempty"` // 0: etcd's default, if Complete
	ForceNewCluster bool     `json:"force_new_cluster,omitempty"`
	TLSFiles        []string `json:"tls_files,omitempty"`
	Complete        bool     `json:"complete"` // all flags were seen, so what is empty has its default
	Program         string   `json:"program,omitempty"`
}

// A Problem is something on the host that would make a restore fail.
type Problem struct {
	Check  string `json:"check"`
	Detail string `json:"detail"`
	Warn   bool   `json:"warn,omitempty"` // worth knowing, but not in the way
}

// A Journal is what a run left beside a member's data dir: the whole plan, so that any machine can go on, and what
// was done here.
type Journal struct {
	Format int       `json:"format"`
	Run    string    `json:"run"`
	Plan   Plan      `json:"plan"`
	Here   Here      `json:"here"`
	Ended  time.Time `json:"ended,omitzero"`
}

// Here is what a run recorded about one member's place. Each time is written durably before what it announces is begun.
type Here struct {
	WasRunning bool      `json:"was_running"`
	Units      []Unit    `json:"units"`
	StageBegun time.Time `json:"stage_begun,omitzero"`
	Staged     *Staged   `json:"staged,omitempty"`
	SwapBegun  time.Time `json:"swap_begun,omitzero"`
	StartBegun time.Time `json:"start_begun,omitzero"`
}

// A Unit is a directory that is exchanged as a whole: the data dir, its member directory if the data dir is a mount point, or
// a WAL dir apart. Old and New identify the directories themselves (inode and time of birth), wherever they have
// been renamed to; an empty Old means that there was none.
type Unit struct {
	Live   string `json:"live"`
	Staged string `json:"staged"`
	Before string `json:"before"`
	Old    string `json:"old"`
	New    string `json:"new,omitempty"`
}

// Staged describes a complete staged member. Files are compared before it is used.
type Staged struct {
	Checksum string      `json:"checksum"`
	Boot     string      `json:"boot"`
	DB       string      `json:"db"` // path of the database in its unit, as in Files; empty with Join
	Files    []FileStamp `json:"files"`
}

// A FileStamp tells whether a file was written to since it was staged.
type FileStamp struct {
	Unit  int    `json:"unit"`
	Path  string `json:"path"` // in the unit
	Size  int64  `json:"size"`
	Mtime int64  `json:"mtime"` // ns
	Ctime int64  `json:"ctime"` // ns
}
