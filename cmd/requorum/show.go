package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// find is the backup that ref asks for; how it was picked is said.
func (a *app) find(ctx context.Context, repo *repository.Repository, ref string) (catalog.Snapshot, error) {
	snap, note, err := repo.Find(ctx, ref, now())
	if err == nil && note != "" {
		a.say("%s", note)
	}
	return snap, err
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
	from.addIdentity(cmd)
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
	snap, err := a.find(ctx, repo, ref)
	if err != nil {
		return err
	}
	m, err := repo.Manifest(ctx, snap)
	if err != nil {
		return err
	}
	facts, factsErr := repo.Facts(ctx, snap, m)
	drill := drilled(snap)
	if drill != nil && !drill.OK {
		if drill.Why, err = repo.DrillFailure(ctx, snap.Drilled.Drill); err != nil {
			a.say("warning: why its drill failed is not known: %v", err)
		}
	}
	if a.json() {
		out := struct {
			catalog.Manifest
			AgentFacts *catalog.Facts `json:"agent_facts,omitempty"`
			Drill      *drilledBy     `json:"drill"`
		}{Manifest: m, Drill: drill}
		if factsErr == nil {
			out.AgentFacts = &facts
		}
		return a.printJSON(out)
	}
	a.showManifest(snap, m, drill)
	if factsErr != nil {
		a.say("its agents and leased keys cannot be shown: %v", factsErr)
		return nil
	}
	a.showFacts(facts)
	return nil
}

func (a *app) showManifest(snap catalog.Snapshot, m catalog.Manifest, drill *drilledBy) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(a.out, "%-14s %s\n", name, strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
	line("backup", "%s of cluster %s, line %s", m.ID, m.Cluster, m.Line)
	line("taken", "%s (%s ago), source %s", m.Time.Format(time.RFC3339), ageOf(time.Now(), m.Time), m.Source)
	line("revision", "%d, compacted at %d, %s, %s", m.Revision, m.CompactRevision, catalog.Count(m.Keys, "key"), catalog.Count(m.Leases, "lease"))
	line("cluster id", "%s, raft term %d", orUnknown(m.ClusterID), m.RaftTerm)
	if m.Member != nil {
		line("member", "%s at %s, etcd %s", m.Member.Name, m.Member.Endpoint, orUnknown(m.Member.ServerVersion))
	}
	for _, member := range m.Members {
		line("", "%s %s %s", member.ID, member.Name, strings.Join(member.PeerURLs, ","))
	}
	line("size", "%s raw, %s stored in %s, codec %s", catalog.Size(m.Data.Bytes), catalog.Size(m.Data.StoredBytes), strings.Join(snap.Stores, ", "), m.Codec)
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
	switch {
	case drill == nil:
		line("drill", "in none that came to a verdict about it")
	case drill.OK:
		line("drill", "restored in %s at %s", drill.ID, drill.Time.Format(time.RFC3339))
	default:
		line("drill", "FAILED in %s at %s: %s", drill.ID, drill.Time.Format(time.RFC3339), orUnknown(drill.Why))
	}
}

func (a *app) showFacts(f catalog.Facts) {
	for _, g := range f.Leased {
		owner := g.Agent
		if owner == "" {
			owner = "no configured agent"
		}
		ttl := fmt.Sprintf("%d s", g.TTLMin)
		if g.TTLMax != g.TTLMin {
			ttl = fmt.Sprintf("%d to %d s", g.TTLMin, g.TTLMax)
		}
		fmt.Fprintf(a.out, "%-14s %s below %s, TTL %s, %s\n", "leased", catalog.Count(g.Count, "key"), printable(g.Prefix), ttl, owner)
		for _, k := range g.Owners {
			fmt.Fprintf(a.out, "%-14s   %s = %s (lease %s)\n", "", printable(k.Key), printable(shorten(k.Value, 60)), k.Lease)
		}
		if g.Truncated > 0 {
			fmt.Fprintf(a.out, "%-14s   and %d more\n", "", g.Truncated)
		}
	}
	for _, agent := range f.Agents {
		fmt.Fprintf(a.out, "%-14s %s\n", "agent", agent.Name)
		if strings.TrimSpace(string(agent.Data)) == "[]" {
			fmt.Fprintf(a.out, "%17snothing of it is there\n", "")
			continue
		}
		outline(a.out, strings.Repeat(" ", 17), agent.Data)
	}
}

func shorten(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}
