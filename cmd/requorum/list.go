package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/storage/catalog"
)

func newListCommand(a *app) *cobra.Command {
	var from sourceFlags
	cmd := &cobra.Command{
		Use:   "list [CLUSTER]",
		Short: "Backups, lines, verdicts",
		Long: `Lists the backups of one cluster or of all, oldest first. Everything shown comes from listings of the
stores; nothing else is read.`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.list(cmd.Context(), from, args) },
	}
	from.addEndpoints(cmd)
	from.addStores(cmd)
	return cmd
}

// listed is one backup in the JSON contract of list.
type listed struct {
	ID          string     `json:"id"`
	Cluster     string     `json:"cluster"`
	Line        string     `json:"line"`
	Revision    int64      `json:"revision"`
	Time        time.Time  `json:"time"`
	StoredBytes int64      `json:"stored_bytes"`
	Encrypted   bool       `json:"encrypted"`
	Stores      []string   `json:"stores"`
	VerifiedAt  *time.Time `json:"verified_at"`
	Failed      bool       `json:"failed"`
}

// targets are the named cluster, or all of them.
func (a *app) targets(from *sourceFlags, args []string) ([]*target, error) {
	if from.given() || len(args) == 1 {
		t, err := a.targetOr(from, strings.Join(args, ""))
		return []*target{t}, err
	}
	cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	var all []*target
	for _, cl := range cfg.Sorted() {
		all = append(all, &target{app: a, cfg: cfg, cluster: cl})
	}
	return all, nil
}

func (a *app) list(ctx context.Context, from sourceFlags, args []string) error {
	targets, err := a.targets(&from, args)
	if err != nil {
		return err
	}
	rows := []listed{}
	lines := make(map[string]catalog.Snapshot) // the newest backup of each
	var partly error
	for _, t := range targets {
		repo, err := t.repository(ctx)
		if err != nil {
			return err
		}
		snaps, err := repo.Snapshots(ctx)
		if err != nil && len(snaps) == 0 {
			return err
		}
		if err != nil {
			a.say("warning: %v", err)
			partly = codeError{exitPartly}
		}
		for _, s := range snaps {
			row := listed{ID: s.ID, Cluster: t.cluster.Name, Line: s.Line, Revision: s.Revision, Time: s.Time, StoredBytes: s.StoredBytes,
				Encrypted: s.Encrypted, Stores: s.Stores, Failed: s.Failed()}
			if !s.VerifiedAt.IsZero() {
				row.VerifiedAt = &s.VerifiedAt
			}
			rows = append(rows, row)
			if old, ok := lines[s.Line]; !ok || s.Time.After(old.Time) {
				lines[s.Line] = s
			}
		}
	}
	if a.json() {
		if err := a.printJSON(rows); err != nil {
			return err
		}
		return partly
	}
	now := time.Now()
	var table [][]string
	for _, r := range rows {
		sealed := "plain"
		if r.Encrypted {
			sealed = "age"
		}
		verdict := "-"
		switch {
		case r.Failed:
			verdict = "FAILED"
		case r.VerifiedAt != nil:
			verdict = ageOf(now, *r.VerifiedAt) + " ago"
		}
		table = append(table, []string{r.Cluster, r.ID, r.Line, r.Time.Format(time.RFC3339), ageOf(now, r.Time), strconv.FormatInt(r.Revision, 10),
			size(r.StoredBytes), sealed, strings.Join(r.Stores, ","), verdict})
	}
	if err := a.table([]string{"CLUSTER", "ID", "LINE", "TIME", "AGE", "REVISION", "STORED", "SEALED", "STORES", "VERIFIED"}, table); err != nil {
		return err
	}
	if len(rows) == 0 {
		a.say("no backups; take one with: requorum backup CLUSTER")
	}
	if len(lines) > 1 && len(targets) == 1 {
		a.say("%d lines of history; the newest backup of each:", len(lines))
		byTime := slices.SortedFunc(maps.Values(lines), func(x, y catalog.Snapshot) int { return x.Time.Compare(y.Time) })
		for _, s := range byTime {
			a.say("  %s  %s at revision %d, %s old", s.Line, s.ID, s.Revision, ageOf(now, s.Time))
		}
	}
	return partly
}

func newShowCommand(a *app) *cobra.Command {
	var from sourceFlags
	cmd := &cobra.Command{
		Use:   "show CLUSTER ID",
		Short: "One backup: manifest, proof, agents and leased keys it holds",
		Long: `ID is an id or a unique prefix of one, "latest", a revision, or a moment such as "2h ago" or
2026-11-22T05:55:00Z (the last backup at or before it).`,
		Args: exactArgs("CLUSTER", "ID"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.show(cmd.Context(), from, args[0], args[1]) },
	}
	from.addStores(cmd)
	return cmd
}

func (a *app) show(ctx context.Context, from sourceFlags, name, ref string) error {
	t, err := a.targetOr(&from, name)
	if err != nil {
		return err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	snap, note, err := repo.Find(ctx, ref, time.Now())
	if err != nil {
		return err
	}
	if note != "" {
		a.say("%s", note)
	}
	m, err := repo.Manifest(ctx, snap)
	if err != nil {
		return err
	}
	facts, factsErr := repo.Facts(ctx, snap, m)
	if a.json() {
		out := struct {
			catalog.Manifest
			AgentFacts *catalog.Facts `json:"agent_facts,omitempty"`
		}{Manifest: m}
		if factsErr == nil {
			out.AgentFacts = &facts
		}
		return a.printJSON(out)
	}
	a.showManifest(snap, m)
	if factsErr != nil {
		a.say("its agents and leased keys cannot be shown: %v", factsErr)
		return nil
	}
	a.showFacts(facts)
	return nil
}

func (a *app) showManifest(snap catalog.Snapshot, m catalog.Manifest) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(a.out, "%-14s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("backup", "%s of cluster %s, line %s", m.ID, m.Cluster, m.Line)
	line("taken", "%s (%s ago), source %s", m.Time.Format(time.RFC3339), ageOf(time.Now(), m.Time), m.Source)
	line("revision", "%d, compacted at %d, %d keys, %d leases", m.Revision, m.CompactRevision, m.Keys, m.Leases)
	line("cluster id", "%s, raft term %d", orUnknown(m.ClusterID), m.RaftTerm)
	if m.Member != nil {
		line("member", "%s at %s, etcd %s", m.Member.Name, m.Member.Endpoint, orUnknown(m.Member.ServerVersion))
	}
	for _, member := range m.Members {
		line("", "%s %s %s", member.ID, member.Name, strings.Join(member.PeerURLs, ","))
	}
	line("size", "%s raw, %s stored in %s, codec %s", size(m.Data.Bytes), size(m.Data.StoredBytes), strings.Join(snap.Stores, ", "), m.Codec)
	line("sha256", "%s raw", m.Data.SHA256)
	line("", "%s stored", m.Data.StoredSHA256)
	line("hashkv", "%08x at revision %d, compacted at %d", m.HashKV.Hash, m.HashKV.Revision, m.HashKV.CompactRevision)
	for _, p := range m.Proofs {
		ok := "ok"
		if !p.OK {
			ok = "no"
		}
		line("proof", "%-3s %s (%s) %s", ok, p.Name, p.Where, p.Detail)
	}
	for _, w := range m.Warnings {
		line("warning", "%s", w)
	}
	switch {
	case snap.Failed():
		line("verdict", "FAILED at %s", snap.FailedAt.Format(time.RFC3339))
	case !snap.VerifiedAt.IsZero():
		line("verdict", "verified at %s", snap.VerifiedAt.Format(time.RFC3339))
	default:
		line("verdict", "not verified since it was taken")
	}
}

func (a *app) showFacts(f catalog.Facts) {
	for _, g := range f.Leased {
		owner := g.Agent
		if owner == "" {
			owner = "no configured agent"
		}
		fmt.Fprintf(a.out, "%-14s %d keys below %s, TTL %d to %d s, %s\n", "leased", g.Count, g.Prefix, g.TTLMin, g.TTLMax, owner)
		for _, k := range g.Owners {
			fmt.Fprintf(a.out, "%-14s   %s = %s (lease %s)\n", "", k.Key, shorten(k.Value, 60), k.Lease)
		}
		if g.Truncated > 0 {
			fmt.Fprintf(a.out, "%-14s   and %d more\n", "", g.Truncated)
		}
	}
	for _, agent := range f.Agents {
		fmt.Fprintf(a.out, "%-14s %s: %s\n", "agent", agent.Name, agent.Data)
	}
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
