package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"os/exec"
	"regexp"
	"strings"
	"time"

	apiversion "go.etcd.io/etcd/api/v3/version"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/member"
	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/restore/local"
	"github.com/requorum/requorum/storage/catalog"
)

// catalogID is a fresh id of a drill unless there is one.
func catalogID(id string) string { return cmp.Or(id, catalog.NewID(catalog.KindDrill)) }

// drillCommon is what both kinds of drills are told. how is "command" or "schedule".
func (t *target) drillCommon(ctx context.Context, how, id string) (drills.Common, error) {
	repo, err := t.repository(ctx)
	if err != nil {
		return drills.Common{}, err
	}
	sanitized, err := t.sanitized()
	if err != nil {
		return drills.Common{}, err
	}
	sum := sha256.Sum256(sanitized)
	o := t.cluster.Objectives
	v := thisVersion()
	c := drills.Common{
		ID: id, Cluster: t.cluster.Name, Repository: repo,
		Asked:    drills.Asked{RPO: time.Duration(o.RPO), RTO: time.Duration(o.RTO), DrillAge: time.Duration(o.DrillAge)},
		Settings: drills.Settings{SHA256: hex.EncodeToString(sum[:]), Quota: int64(t.cluster.Thresholds.Quota), Members: "as configured", Program: "embedded"},
		By:       drills.Starter{User: username(), Host: hostname(), How: how},
		Versions: drills.Versions{Requorum: v.Version, Commit: v.Commit, Etcd: apiversion.Version, Platform: v.Target},
		Advise:   adviceIn, Code: func(err error) int { return exitCode(err, 0) }, Log: t.log(),
	}
	if t.cluster.DrillSigning != "" {
		if c.Signer, err = drills.ReadSigner(string(t.cluster.DrillSigning)); err != nil {
			return c, fmt.Errorf("drill_signing_key_file of cluster %s: %w", t.cluster.Name, err)
		}
	}
	return c, nil
}

// drillOptions describe a drill in a sandbox.
func (t *target) drillOptions(ctx context.Context, f drillFlags, how, id string) (drills.Options, error) {
	common, err := t.drillCommon(ctx, how, id)
	if err != nil {
		return drills.Options{}, err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return drills.Options{}, err
	}
	conn, err := t.connection(t.cluster.Connection)
	if err != nil {
		return drills.Options{}, err
	}
	conn.DialTimeout = drillDial
	login := restore.Credentials{Username: conn.Username, Password: conn.Password, CommonName: commonName(conn.TLS)}
	conn.TLS = nil // the sandbox is plain, unless etcd knows its clients by their certificates
	var secure *sandboxTLS
	if login.Username == "" && login.CommonName != "" {
		if secure, err = newSandboxTLS(login.CommonName); err != nil {
			return drills.Options{}, fmt.Errorf("certificates for the sandbox: %w", err)
		}
		conn.TLS = secure.client
	}
	seed := maphash.MakeSeed()
	binary := string(t.cluster.EtcdBinary)
	if binary != "" {
		if common.Versions.Etcd, err = etcdVersion(ctx, binary); err != nil {
			return drills.Options{}, err
		}
		common.Settings.Program = binary
	}
	o := drills.Options{
		Common: common, At: f.at, QuotaBytes: int64(t.cluster.Thresholds.Quota), Dir: string(t.cfg.SpoolDir),
		Restore: restore.Options{
			Owner: owner(), Credentials: login,
			Connect: func(endpoints []string) (*cluster.Client, error) {
				own := conn
				own.Endpoints = endpoints
				return cluster.Dial(own)
			},
			Predict: predict, Replay: member.Replay, Command: t.command(), Version: version, AgentOptions: agents.Options{KeepPrefixes: prefixes(t.cluster.KeepLeased)},
		},
		Host: func(find func(string) drills.Server) restore.Host {
			return local.New(local.Options{Log: t.log(), Child: func(m restore.Member) local.Child { return find(m.Name) }})
		},
		Serve: func(p drills.Place) drills.Server { return sandboxServer(binary, secure, p) },
		Open:  func(endpoints []string) (drills.Etcd, error) { return openEtcd(ctx, conn, endpoints, seed) },
		Untouched: func(ctx context.Context, dir string, snap catalog.Snapshot, m catalog.Manifest) (drills.Untouched, error) {
			return serveUntouched(ctx, untouchedOptions{repo: repo, dir: dir, conn: conn, secure: secure, seed: seed}, snap, m)
		},
	}
	if secure != nil {
		o.Secure = secure.write
	}
	for _, m := range t.cluster.Members {
		o.Names = append(o.Names, m.Name)
	}
	if o.Agents, err = t.rehearsed(); err != nil {
		return o, err
	}
	if f.compare {
		o.Compare = t.compareRunning
	}
	return o, nil
}

// rehearsed are the agents with what their programs do to register.
func (t *target) rehearsed() ([]drills.Rehearsed, error) {
	configured, _, err := t.agents()
	if err != nil {
		return nil, err
	}
	expect := map[string][]string{} // by prefix
	for _, c := range t.cluster.Agents {
		switch {
		case c.Leased != nil:
			expect["leased "+string(c.Leased.Prefix)] = c.Leased.Expect
		case c.Patroni != nil:
			dir := "/" + strings.Trim(strings.TrimSuffix(c.Patroni.Namespace, "/")+"/"+c.Patroni.Scope, "/")
			expect["patroni "+dir] = []string{dir + "/leader"}
		}
	}
	var all []drills.Rehearsed
	for _, c := range configured {
		r := drills.Rehearsed{Configured: c, Expect: expect[c.Name]}
		if c.Kind == "patroni" {
			r.Elects = func(key string) bool {
				return strings.HasSuffix(key, "/leader") && !strings.HasSuffix(key, "/optime/leader")
			}
		}
		all = append(all, r)
	}
	return all, nil
}

var etcdVersionLine = regexp.MustCompile(`(?i)etcd version: v?(\d+\.\d+\.\d+)`)

// etcdVersion asks a program for its version.
func etcdVersion(ctx context.Context, binary string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "--version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("etcd_binary: %s --version: %w: %s", binary, err, strings.TrimSpace(string(out)))
	}
	m := etcdVersionLine.FindSubmatch(out)
	if m == nil {
		return "", fmt.Errorf("etcd_binary: %s --version does not say the version of an etcd: %s", binary, strings.TrimSpace(string(out)))
	}
	return string(m[1]), nil
}

// compareRunning looks at the running cluster, reading only.
func (t *target) compareRunning(ctx context.Context, m catalog.Manifest) (drills.Comparison, error) {
	client, err := t.dial()
	if err != nil {
		return drills.Comparison{}, err
	}
	defer client.Close()
	all, err := client.Status(ctx)
	if err != nil {
		return drills.Comparison{}, err
	}
	usable, rejected := cluster.Choose(all)
	if len(usable) == 0 {
		return drills.Comparison{}, &cluster.Unusable{Rejected: rejected}
	}
	member := usable[0] // a follower where there is one
	conn, err := t.connection(t.cluster.Connection)
	if err != nil {
		return drills.Comparison{}, err
	}
	etcd, err := openEtcd(ctx, conn, []string{member.Endpoint}, maphash.MakeSeed())
	if err != nil {
		return drills.Comparison{}, err
	}
	defer etcd.Close()
	c := drills.Comparison{Endpoint: member.Endpoint}
	if c.Keys, c.Revision, err = etcd.count(ctx); err != nil {
		return c, err
	}
	c.Behind = c.Revision - m.Revision
	c.Hash, c.Why = "not comparable", ""
	h, err := client.HashKV(ctx, member.Endpoint, m.HashKV.Revision)
	switch {
	case errors.Is(err, cluster.ErrCompacted):
		c.Why = "the running cluster has compacted that revision"
	case errors.Is(err, cluster.ErrFutureRevision):
		c.Why = "the running cluster has not come to that revision: it is another history, or was restored from an earlier backup"
	case errors.Is(err, cluster.ErrNeedsRoot):
		c.Why = "the configured user may not ask for the hash"
	case err != nil:
		return c, err
	default:
		equal, why := h.Compare(cluster.Hash(m.HashKV))
		c.Hash, c.Why = equal.String(), why
	}
	return c, nil
}

// liveOptions describe a live drill.
func (t *target) liveOptions(ctx context.Context, reporter restore.Progress) (drills.LiveOptions, error) {
	common, err := t.drillCommon(ctx, "command", catalogID(""))
	if err != nil {
		return drills.LiveOptions{}, err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return drills.LiveOptions{}, err
	}
	r, err := t.restorer(ctx, restoreFlags{yes: true, replaceHealthy: t.cluster.Name})
	if err != nil {
		return drills.LiveOptions{}, err
	}
	common.Progress = reporter
	common.Settings.Program = "as installed on the members"
	common.Versions.Etcd = cmp.Or(string(t.cluster.TargetVersion), "as found")
	return drills.LiveOptions{
		Common: common, Restorer: r,
		Backup: func(ctx context.Context, progress restore.Progress) (catalog.Manifest, []string, error) {
			var stages backup.Progress = progress
			result, err := t.take(ctx, repo, takeFlags{prove: true}, stages)
			return result.Manifest, result.Stores, err
		},
	}, nil
}

// probeDrills makes sure that drills can start their etcd and sign their reports.
func (t *target) probeDrills(ctx context.Context) (problems []config.Problem) {
	add := func(key string, err error) {
		if err != nil {
			p := t.cfg.At("clusters." + t.cluster.Name + "." + key)
			p.What = err.Error()
			problems = append(problems, p)
		}
	}
	if t.cluster.DrillSigning != "" {
		_, err := drills.ReadSigner(string(t.cluster.DrillSigning))
		add("drill_signing_key_file", err)
	}
	if t.cluster.EtcdBinary != "" {
		_, err := etcdVersion(ctx, string(t.cluster.EtcdBinary))
		add("etcd_binary", err)
	}
	return problems
}
