package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

func newConfigCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Check the configuration, or rebuild it from a bucket"}
	only(cmd)
	cmd.AddCommand(newConfigCheckCommand(a), newConfigRecoverCommand(a))
	return cmd
}

func newConfigCheckCommand(a *app) *cobra.Command {
	var offline bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Resolve everything, connect, say what is wrong",
		Long: `Reads the whole configuration, opens every file that it names, asks every
endpoint, logs in to every member's host and tries to write to every store. All that is wrong is said at once, with
file, line and key. The write probe leaves nothing behind.`,
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.configCheck(cmd.Context(), offline) },
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "connect to nothing")
	return cmd
}

func (a *app) configCheck(ctx context.Context, offline bool) error {
	path, err := config.Find(a.configFile)
	if err != nil {
		return err
	}
	var problems config.Problems
	cfg, err := config.Load(path, os.LookupEnv)
	if err != nil && !errors.As(err, &problems) {
		return err
	}
	if cfg != nil {
		problems = append(problems, cfg.CheckFiles(time.Now())...)
		var receivers config.Problems
		if _, notifyErr := listening(cfg, listeners{}); err == nil && errors.As(notifyErr, &receivers) {
			problems = append(problems, receivers...)
		}
		if !offline {
			problems = append(problems, config.RunProbes(ctx, a.probes(cfg, problems)...)...)
		}
		problems.Sort()
		for _, w := range cfg.Warnings {
			a.say("warning: %v", w)
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if a.json() {
		if problems == nil {
			problems = config.Problems{}
		}
		if err := a.printJSON(map[string]any{"ok": len(problems) == 0, "file": path, "problems": problems}); err != nil {
			return err
		}
	}
	if len(problems) > 0 {
		fmt.Fprintln(a.err, problems.Error())
		a.say("%s: %s", path, catalog.Count(len(problems), "problem"))
		return codeError{exitUsage}
	}
	if !a.json() {
		how := "every endpoint, host and store answers"
		if offline {
			how = "nothing was connected to"
		}
		fmt.Fprintf(a.out, "%s: ok, %s, %s, %s\n", path, catalog.Count(len(cfg.Clusters), "cluster"), catalog.Count(len(cfg.Stores), "store"), how)
	}
	return nil
}

// probes asks the world about every value that names something in it. What is known to be wrong already is not asked about.
func (a *app) probes(cfg *config.Config, known config.Problems) []config.Probe {
	var probes []config.Probe
	if err := a.reachHosts(cfg, nil); err != nil {
		p := cfg.At("ssh")
		p.What = err.Error()
		return append(probes, func(context.Context) []config.Problem { return []config.Problem{p} })
	}
	for _, cl := range cfg.Sorted() {
		t := &target{app: a, cfg: cfg, cluster: cl}
		probes = append(probes, t.probeHosts, t.probeDrills)
		if !known.Within("clusters."+cl.Name+".tls") && !known.Within("clusters."+cl.Name+".password_file") {
			probes = append(probes, t.probeEndpoints)
		}
	}
	if !known.Within("spool_dir") {
		probes = append(probes, func(context.Context) []config.Problem { return probeSpool(cfg) })
	}
	for name, st := range cfg.Stores {
		if st == nil {
			continue
		}
		probes = append(probes, func(ctx context.Context) []config.Problem { return probeStore(ctx, cfg, name, st) })
	}
	return probes
}

func (t *target) probeEndpoints(ctx context.Context) []config.Problem {
	at := func(suffix string) config.Problem { return t.cfg.At("clusters." + t.cluster.Name + suffix) }
	if len(t.cluster.Endpoints) == 0 {
		return nil
	}
	client, err := t.dial()
	if err != nil {
		p := at("")
		p.What = err.Error()
		return []config.Problem{p}
	}
	defer client.Close()
	statuses, err := client.Status(ctx)
	if err != nil {
		return nil // the caller's context ended
	}
	var problems []config.Problem
	for i, s := range statuses {
		if s.Err == nil {
			continue
		}
		p := at(fmt.Sprintf(".endpoints[%d]", i))
		p.What = s.Err.Error()
		var e *cluster.Error
		if errors.As(s.Err, &e) {
			p.What, p.Advice = fmt.Sprintf("%s: %s", e.Endpoint, e.What), e.Advice
		}
		problems = append(problems, p)
	}
	return problems
}

// probeSpool says whether databases can pass through the spool directory. One that was made for that is taken away again.
func probeSpool(cfg *config.Config) []config.Problem {
	dir := string(cfg.SpoolDir)
	_, missing := os.Stat(dir)
	f, err := backup.Spool{Dir: dir, AllowMemory: cfg.AllowTmpfsSpool}.Create(0)
	if err == nil {
		err = f.Close()
	}
	if errors.Is(missing, fs.ErrNotExist) {
		_ = os.Remove(dir)
	}
	if err == nil {
		return nil
	}
	p := cfg.At("spool_dir")
	p.What = err.Error()
	return []config.Problem{p}
}

func probeStore(ctx context.Context, cfg *config.Config, name string, st *config.Store) []config.Problem {
	key := "stores." + name + ".file.path"
	if st.S3 != nil {
		key = "stores." + name + ".s3.bucket"
	}
	problem := func(err error) []config.Problem {
		p := cfg.At(key)
		p.What = err.Error()
		var e *storage.Error
		if errors.As(err, &e) {
			plain := *e
			plain.Advice = ""
			p.What, p.Advice = plain.Error(), e.Advice
		}
		return []config.Problem{p}
	}
	s, err := openStore(ctx, st)
	if err != nil {
		return problem(err)
	}
	for _, err := range s.List(ctx, "lines/", "") {
		if err != nil {
			return problem(err)
		}
		break
	}
	if err := storage.Probe(ctx, s); err != nil {
		return problem(err)
	}
	return nil
}

func newConfigRecoverCommand(a *app) *cobra.Command {
	var from sourceFlags
	var to string
	cmd := &cobra.Command{
		Use:   "recover CLUSTER --store URL",
		Short: "Write the configuration back from the newest backup in a store",
		Long: `On a fresh machine that has nothing but the bucket's URL, its credentials and the age key:
reads the newest manifest of CLUSTER and writes the configuration that it keeps. Secrets are not
in it; the file says which ones to fill in.`,
		Args: exactArgs("CLUSTER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.configRecover(cmd.Context(), args[0], from, to)
		},
	}
	from.addStores(cmd)
	cmd.Flags().StringVarP(&to, "file", "f", "requorum.yaml", "`FILE` to write, - for stdout; an existing one is not overwritten")
	return cmd
}

func (a *app) configRecover(ctx context.Context, name string, from sourceFlags, to string) error {
	if len(from.stores) == 0 {
		return usage("--store is missing: the URL of the bucket or directory that holds the backups, such as s3://bucket/prefix?region=…")
	}
	cfg, err := from.config(name)
	if err != nil {
		return err
	}
	t, err := a.targetIn(cfg, name)
	if err != nil {
		return err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	m, err := newestConfigured(ctx, repo)
	if errors.Is(err, catalog.ErrNothingToRestore) {
		return fmt.Errorf("%w; %s", err, t.others(ctx, from.stores))
	}
	if err != nil {
		return err
	}
	text, missing, err := config.FromManifest(m.Config)
	if err != nil {
		return fmt.Errorf("backup %s of %s: %w", m.ID, name, err)
	}
	if to == "-" {
		_, err = a.out.Write(text)
	} else {
		err = writeNew(to, text)
	}
	if err != nil {
		return err
	}
	if a.json() && to != "-" {
		if missing == nil {
			missing = []string{}
		}
		return a.printJSON(map[string]any{"file": to, "from": m.ID, "missing": missing})
	}
	a.say("the configuration as it was at backup %s (%s)", m.ID, m.Time.Format(time.RFC3339))
	for _, key := range missing {
		a.say("  fill in: %s", key)
	}
	if to != "-" {
		a.say("next: requorum -c %s config check", to)
	}
	return nil
}

// others says whose backups lie in the stores, for who does not find those of this cluster.
func (t *target) others(ctx context.Context, urls []string) string {
	var names []string
	for _, name := range t.cluster.Stores {
		s, err := openStore(ctx, t.cfg.Stores[name])
		if err != nil {
			continue
		}
		names = append(names, clustersIn(ctx, s)...)
	}
	where := strings.Join(urls, ", ")
	if len(names) == 0 {
		return "no backup of any cluster lies in " + where + ": check the URL"
	}
	return fmt.Sprintf("in %s lie backups of %s: give that name, or --path", where, strings.Join(names, ", "))
}

// clustersIn are the paths in a store below which there are backups, by their lines: every cluster has one, and they come early in a listing.
func clustersIn(ctx context.Context, s storage.Store) []string {
	var names []string
	after := ""
	for range 1000 {
		key := ""
		for o, err := range s.List(ctx, "", after) {
			if err == nil {
				key = o.Key
			}
			break
		}
		if key == "" {
			break
		}
		after = key
		if path, _, found := strings.Cut(key, "/lines/"); found {
			names = append(names, path)
			after = path + "0" // beyond what else it has: 0 follows /
		}
	}
	return names
}

// newestConfigured is the newest manifest that keeps a configuration.
func newestConfigured(ctx context.Context, repo *repository.Repository) (catalog.Manifest, error) {
	snaps, err := repo.Snapshots(ctx)
	if err != nil {
		return catalog.Manifest{}, err
	}
	for i := len(snaps) - 1; i >= 0; i-- {
		m, err := repo.Manifest(ctx, snaps[i])
		if err != nil {
			return catalog.Manifest{}, err
		}
		if len(m.Config) > 0 {
			return m, nil
		}
	}
	if len(snaps) == 0 {
		return catalog.Manifest{}, fmt.Errorf("%w: there is no backup of %s", catalog.ErrNothingToRestore, repo.Cluster())
	}
	return catalog.Manifest{}, fmt.Errorf("%w: none of %s keeps a configuration", catalog.ErrNothingToRestore, catalog.Count(len(snaps), "backup"))
}

// writeNew writes a file that must not exist yet, readable by its owner only.
func writeNew(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("writing %s: it exists and is not overwritten; name another file with -f", path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}
