package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/storage/catalog"
)

// defaultQuota is etcd's own where it has no flag.
const defaultQuota = 2 << 30

// observed is what the hosts and the running members say before anything is changed.
type observed struct {
	states   map[string]State // by member; without those that could not be inspected
	errs     map[string]error
	statuses []cluster.MemberStatus
	healthy  []string // endpoints that serve linearizable reads
}

// observe inspects every host that is not left out and asks every configured member.
func (r *Restorer) observe(ctx context.Context, run string, deep bool) (*observed, error) {
	o := &observed{}
	var err error
	o.states, o.errs, err = r.inspect(ctx, run, deep, false)
	if err != nil {
		return nil, err
	}
	c, err := r.Connect(r.endpoints(r.Members))
	if err != nil {
		return nil, fmt.Errorf("connect to cluster %s: %w", r.Cluster, err)
	}
	defer func() { _ = c.Close() }() // nothing was written through it
	for begun := time.Now(); ; {
		if o.statuses, err = c.Status(ctx); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(o.statuses, func(s cluster.MemberStatus) bool { return s.Err == nil || errors.Is(s.Err, cluster.ErrAuth) }) {
			for _, h := range c.Health(ctx) {
				// Before a member refuses who asks it agrees with a quorum, as for the read itself.
				if h.OK || errors.Is(h.Err, cluster.ErrAuth) {
					o.healthy = append(o.healthy, h.Endpoint)
				}
			}
		}
		if len(o.healthy) > 0 || !o.mayElect(r.Members) || time.Since(begun) > electionPatience {
			return o, nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// electionPatience is how long a quorum of running members that serves nothing may be electing a leader: after that it has none.
const electionPatience = 15 * time.Second

// mayElect says whether so many members run that they may serve in a moment, although none does now.
func (o *observed) mayElect(members []Placed) bool {
	up := 0
	for _, m := range members {
		s, inspected := o.states[m.Name]
		answered := slices.ContainsFunc(o.statuses, func(status cluster.MemberStatus) bool { return status.Endpoint == m.ClientURL && status.Err == nil })
		if answered || inspected && !s.Stopped() {
			up++
		}
	}
	return up > len(members)/2
}

// checks looks at everything that can be judged without the database. Refusals and failures are
// all collected.
func (r *Restorer) checks(o *observed, src *source) (checks []Check, refusals []agents.Refusal) {
	refusals = append(refusals, r.checkDown(o, src)...)
	checks = append(checks, r.stoppedCheck(o)...)
	for _, p := range r.TLSProblems {
		checks = append(checks, Check{Name: "tls files", Status: CheckFailed, Detail: p})
	}
	size := int64(0)
	if src != nil {
		size = src.size
	}
	return append(checks, r.hostChecks(o, size)...), refusals
}

// hostChecks looks at every host where a member is to be built whose database has size bytes, 0 if that is not known yet.
func (r *Restorer) hostChecks(o *observed, size int64) (checks []Check) {
	for _, m := range r.targets() {
		s, ok := o.states[m.Name]
		if !ok {
			checks = append(checks, Check{Name: "host", Member: m.Name, Status: CheckFailed, Detail: fmt.Sprintf("%v; repair that, or leave the member out with --without %s", o.errs[m.Name], m.Name)})
			continue
		}
		checks = append(checks, Check{Name: "host", Member: m.Name, Status: CheckOK, Detail: describeUse(s)})
		checks = append(checks, portCheck(m.Member, s)...)
		for _, p := range s.Problems {
			status := CheckFailed
			if p.Warn {
				status = CheckWarning
			}
			checks = append(checks, Check{Name: p.Check, Member: m.Name, Status: status, Detail: p.Detail})
		}
		checks = append(checks, flagChecks(m.Member, s)...)
		if size > 0 {
			checks = append(checks, r.spaceChecks(o, m, size)...)
			checks = append(checks, sizeCheck(m.Name, s, size)...)
			checks = append(checks, quotaCheck(m.Name, s, size))
		}
	}
	return checks
}

// checkDown refuses to replace a cluster that lives, or one of which nobody knows.
func (r *Restorer) checkDown(o *observed, src *source) (refusals []agents.Refusal) {
	if len(o.healthy) > 0 && r.ReplaceHealthy != r.Cluster {
		lost := "NAME"
		for _, m := range r.targets() {
			if !slices.Contains(o.healthy, m.ClientURL) {
				lost = m.Name
			}
		}
		refusals = append(refusals, agents.Refusal{
			What: fmt.Sprintf("cluster %s is healthy: it serves reads with a quorum at %s", r.Cluster, strings.Join(o.healthy, ", ")),
			Risk: "everything written since the backup is lost, and its clients see a cut; a single lost member is replaced instead, while the others serve on: " + r.command("replace-member", lost),
			Flag: "--replace-healthy " + r.Cluster,
		})
	}
	// The old quorum: the members that the backup knows, else those configured.
	old := []string{}
	for _, m := range r.Members {
		old = append(old, m.Name)
	}
	if src != nil && len(src.members) > 0 && r.Elsewhere == nil { // others are elsewhere than where this one is built
		old = src.members
	}
	if refusal := r.unfenced("the old cluster's", old, o); refusal != nil {
		return append(refusals, *refusal)
	}
	if src != nil {
		if refusal := r.unfenced("the undone cluster's", src.undone, o); refusal != nil {
			return append(refusals, *refusal)
		}
	}
	return refusals
}

// unfenced refuses if so many members of a cluster may run that they are a quorum.
func (r *Restorer) unfenced(whose string, members []string, o *observed) *agents.Refusal {
	var unproven, flags []string
	for _, name := range members {
		if _, inspected := o.states[name]; !inspected && !slices.Contains(r.Fenced, name) {
			unproven = append(unproven, name)
		}
	}
	if len(unproven) < len(members)/2+1 {
		return nil
	}
	slices.Sort(unproven) // a manifest has members in the order of their ids
	for _, name := range unproven {
		flags = append(flags, "--fenced "+name)
	}
	return &agents.Refusal{
		What: fmt.Sprintf("%d of %s %d members cannot be proven stopped: %s, and together they are a quorum", len(unproven), whose, len(members), strings.Join(unproven, ", ")),
		Risk: "if they still run, or are started again, there are two clusters, and clients write to both; allow it only if each is surely powered off",
		Flag: strings.Join(flags, " "),
	}
}

// stoppedCheck finds a cluster that may only have to be started.
func (r *Restorer) stoppedCheck(o *observed) []Check {
	var there []string
	for _, m := range r.targets() {
		if s := o.states[m.Name]; s.Exists && s.Stopped() {
			there = append(there, m.Name)
		}
	}
	if len(o.healthy) > 0 || len(there) < len(r.Members)/2+1 {
		return nil
	}
	return []Check{{Name: "survivors", Status: CheckWarning, Detail: fmt.Sprintf("the data dirs of %s are there, which is a quorum: if they are whole, "+
		"the cluster serves again, with nothing lost, once etcd is started on them", strings.Join(there, ", "))}}
}

func describeUse(s State) string {
	switch {
	case s.Stopped() && s.Exists:
		return "stopped, its data dir is there"
	case s.Stopped():
		return "stopped, its data dir holds no member"
	case len(s.Running) > 0:
		return fmt.Sprintf("running (process %d), it will be stopped", s.Running[0].PID)
	}
	return "running, it will be stopped"
}

// portCheck finds ports that something else than the member has: stopping the member does not free them.
func portCheck(m Member, s State) (checks []Check) {
	for _, p := range s.Ports {
		own := len(s.Running) == 0 && s.Active || p.PID == 0 && (s.Active || len(s.Running) > 0)
		for _, proc := range s.Running {
			own = own || proc.PID == p.PID
		}
		if !own {
			checks = append(checks, Check{Name: "ports", Member: m.Name, Status: CheckFailed, Detail: fmt.Sprintf(
				"%s is taken by process %d (%s), which does not use data_dir %s: end that process, or correct the member's URL or data_dir", p.URL, p.PID, p.Owner, m.DataDir)})
		}
	}
	return checks
}

// flagChecks compares the settings that the member's etcd has, or would have, with the configuration.
func flagChecks(m Member, s State) (checks []Check) {
	f := s.Flags
	if f == nil {
		return []Check{{Name: "flags", Member: m.Name, Status: CheckUnknown, Detail: "etcd's flags are neither in a running process nor in the start command; nobody compared them with the configuration"}}
	}
	differ := func(what, configured, found string) {
		checks = append(checks, Check{Name: "flags", Member: m.Name, Status: CheckFailed,
			Detail: fmt.Sprintf("%s is %s in the configuration, %s by %s", what, configured, found, f.From)})
	}
	if f.Name != "" && f.Name != m.Name {
		differ("name", m.Name, f.Name)
	}
	if f.DataDir != "" && filepath.Clean(f.DataDir) != filepath.Clean(m.DataDir) && filepath.Clean(f.DataDir) != s.DataDir {
		differ("data dir", m.DataDir, f.DataDir)
	}
	inside := filepath.Join(m.DataDir, "member", "wal") // etcd's own place for it
	if have, want := cmp.Or(f.WALDir, inside), cmp.Or(m.WALDir, inside); (f.WALDir != "" || f.Complete) && filepath.Clean(have) != filepath.Clean(want) {
		differ("wal dir", want, have)
	}
	if f.ForceNewCluster {
		checks = append(checks, Check{Name: "flags", Member: m.Name, Status: CheckFailed,
			Detail: "--force-new-cluster is set by " + f.From + ": the member would leave the others behind at its start; remove it"})
	}
	for what, urls := range map[string][]string{m.PeerURL: f.ListenPeer, m.ClientURL: f.ListenClient} {
		if len(urls) > 0 && !slices.ContainsFunc(urls, func(u string) bool { return samePort(u, what) }) {
			differ("a URL", what, strings.Join(urls, ","))
		}
	}
	if len(checks) == 0 {
		return []Check{{Name: "flags", Member: m.Name, Status: CheckOK, Detail: "as configured, by " + f.From}}
	}
	return checks
}

// samePort compares scheme and port: the address listened on is often another one than the advertised.
func samePort(a, b string) bool {
	ua, err := url.Parse(a)
	ub, errb := url.Parse(b)
	return err == nil && errb == nil && ua.Port() == ub.Port() && ua.Scheme == ub.Scheme
}

// spareBytes is what a staged member needs beside its database: WAL, snapshot, journal.
const spareBytes = 192 << 20

// spaceChecks compares what will be staged with what is free. Members on one file system share it, so each counts all that are on its host.
func (r *Restorer) spaceChecks(o *observed, m Placed, size int64) (checks []Check) {
	s := o.states[m.Name]
	if s.FreeBytes == 0 {
		return nil
	}
	shared := int64(0)
	for _, other := range r.targets() {
		if other.On == m.On && o.states[other.Name].Device == s.Device {
			shared++
		}
	}
	need := shared * (size + spareBytes)
	status, verb := CheckOK, "enough for"
	if s.FreeBytes < need {
		status, verb = CheckFailed, "not enough for"
	}
	checks = append(checks, Check{Name: "disk space", Member: m.Name, Status: status,
		Detail: fmt.Sprintf("%s free beside %s, %s %s", catalog.Size(s.FreeBytes), s.DataDir, verb, catalog.Size(need))})
	if s.WALFree != 0 && s.WALFree < spareBytes {
		checks = append(checks, Check{Name: "disk space", Member: m.Name, Status: CheckFailed,
			Detail: fmt.Sprintf("%s free beside wal_dir, not enough for %s", catalog.Size(s.WALFree), catalog.Size(spareBytes))})
	}
	return checks
}

// quotaCheck finds a database that etcd would open with a NOSPACE alarm.
func quotaCheck(name string, s State, size int64) Check {
	c := Check{Name: "quota", Member: name, Status: CheckOK}
	quota, by := int64(defaultQuota), "etcd's default"
	sure := false
	if f := s.Flags; f != nil {
		if f.QuotaBytes != 0 {
			quota, by, sure = f.QuotaBytes, f.From, true
		} else {
			sure = f.Complete
		}
	}
	switch {
	case quota < 0:
		c.Detail = "switched off by " + by
	case size < quota:
		c.Detail = fmt.Sprintf("%s (%s), the database has %s", catalog.Size(quota), by, catalog.Size(size))
	case sure:
		c.Status = CheckFailed
		c.Detail = fmt.Sprintf("the database has %s, the quota is %s (%s): etcd would refuse writes; raise --quota-backend-bytes", catalog.Size(size), catalog.Size(quota), by)
	default:
		c.Status = CheckWarning
		c.Detail = fmt.Sprintf("the database has %s: make sure that --quota-backend-bytes is above that, etcd's default is %s", catalog.Size(size), catalog.Size(quota))
	}
	return c
}

// versions finds the version that the new members will run. The lowest counts where they differ.
func (r *Restorer) versions(o *observed, src *source) (version string, check Check, err error) {
	check = Check{Name: "server version", Status: CheckOK}
	found := map[string]string{}
	for _, m := range r.targets() {
		if s := o.states[m.Name]; s.Version != "" {
			found[m.Name] = s.Version
		}
		for _, st := range o.statuses {
			if st.Err == nil && st.Endpoint == m.ClientURL && st.Version != "" && found[m.Name] == "" {
				found[m.Name] = st.Version
			}
		}
	}
	if r.TargetVersion != "" {
		check.Detail = r.TargetVersion + ", as asked for"
		for name, v := range found {
			if minor(v) != minor(r.TargetVersion) {
				check.Status = CheckWarning
				check.Detail += fmt.Sprintf("; %s has %s", name, v)
			}
		}
		return r.TargetVersion, check, nil
	}
	lowest := ""
	for _, v := range found {
		if lowest == "" || lessVersion(v, lowest) {
			lowest = v
		}
	}
	if lowest != "" {
		check.Detail = lowest + ", as found"
		for name, v := range found {
			if minor(v) != minor(lowest) {
				check.Status = CheckWarning
				check.Detail += fmt.Sprintf("; %s has %s", name, v)
			}
		}
		return lowest, check, nil
	}
	if src.serverVersion != "" {
		check.Status = CheckUnknown
		check.Detail = src.serverVersion + ", as the source says: the hosts do not tell theirs; if it is another one, say so with --target-version"
		return src.serverVersion, check, nil
	}
	return "", check, fmt.Errorf("the version of the servers is not known, neither from the hosts nor from the source: say it with --target-version, or set target_version of cluster %s", r.Cluster)
}

func minor(v string) string {
	parts := strings.SplitN(v, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

func lessVersion(a, b string) bool {
	var x, y [3]int
	_, _ = fmt.Sscanf(a, "%d.%d.%d", &x[0], &x[1], &x[2]) // what is no number counts as 0
	_, _ = fmt.Sscanf(b, "%d.%d.%d", &y[0], &y[1], &y[2])
	return slices.Compare(x[:], y[:]) < 0
}

// servedUntil refines the stores' last moment by what the hosts know.
func servedUntil(m Moment, o *observed, now time.Time) Moment {
	if len(o.healthy) > 0 {
		return Moment{Time: now.UTC(), Basis: "the cluster still serves"}
	}
	for name, s := range o.states {
		if s.LastWrite.After(m.Time) {
			m = Moment{Time: s.LastWrite, Basis: "last write in the WAL of " + name}
		}
	}
	return m
}
