package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/service"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// drillsOf is what drills says of one cluster.
type drillsOf struct {
	Cluster string        `json:"cluster"`
	Drills  []drills.Past `json:"drills"` // the oldest first
	Last    *time.Time    `json:"last_proven"`
	Due     *time.Time    `json:"due"`  // when objectives.drill_age asks for the next; null: not asked for
	Next    *time.Time    `json:"next"` // when serve runs the next; null: no schedule
}

func newDrillsCommand(a *app) *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "drills [CLUSTER]",
		Short: "Past drills and trends, and when the next is due",
		Args:  maxArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.drills(cmd.Context(), args, count) },
	}
	cmd.Flags().IntVar(&count, "last", 20, "how many to show of each cluster")
	cmd.AddCommand(newDrillsVerifyCommand(a), newDrillsExportCommand(a))
	return cmd
}

func (a *app) drills(ctx context.Context, args []string, count int) error {
	targets, err := a.targets(&sourceFlags{}, args)
	if err != nil {
		return err
	}
	all := []drillsOf{}
	for _, t := range targets {
		repo, err := t.repository(ctx)
		if err != nil {
			return err
		}
		of := drillsOf{Cluster: t.cluster.Name}
		if of.Drills, err = drills.Trend(ctx, repo, max(count, 1)); err != nil {
			a.say("warning: drills of %s: %v", t.cluster.Name, err)
		}
		var last time.Time
		for _, d := range of.Drills {
			if d.Outcome.Restored() {
				last = d.Started
				of.Last = &last
			}
		}
		if age := time.Duration(t.cluster.Objectives.DrillAge); age > 0 {
			due := now().UTC()
			if !last.IsZero() {
				due = last.Add(age)
			}
			of.Due = &due
		}
		rows, err := t.upcoming(ctx, repo, now(), 1)
		if err != nil {
			a.say("warning: schedules of %s: %v", t.cluster.Name, err)
		}
		for _, s := range rows {
			if s.Kind == string(service.Drill) && len(s.Next) > 0 {
				of.Next = &s.Next[0]
			}
		}
		all = append(all, of)
	}
	if a.json() {
		return a.printJSON(all)
	}
	var rows [][]string
	for _, of := range all {
		var before *drills.Past
		for i, d := range of.Drills {
			rto, trend := "-", ""
			if d.Outcome.Restored() {
				rto = fmt.Sprintf("%.1f s", d.RTOSeconds)
				if before != nil {
					trend = change(before.RTOSeconds, d.RTOSeconds)
				}
				before = &of.Drills[i]
			}
			outcome := string(d.Outcome)
			switch {
			case d.Failed != "" && d.Outcome == drills.Failed:
				outcome = "FAILED at " + d.Failed
			case d.Outcome == drills.Missed:
				outcome = "objective missed"
			}
			rows = append(rows, []string{of.Cluster, d.ID, string(d.Kind), d.Started.Format(time.RFC3339), rto, trend, catalog.Age(time.Duration(d.RPOSeconds * float64(time.Second))),
				catalog.Size(d.Bytes), fmt.Sprint(d.Keys), outcome})
		}
	}
	if err := a.table([]string{"CLUSTER", "DRILL", "KIND", "STARTED", "RTO", "CHANGE", "RPO", "DATABASE", "KEYS", "OUTCOME"}, rows); err != nil {
		return err
	}
	for _, of := range all {
		words := []string{"no restore of " + of.Cluster + " was ever rehearsed with success"}
		if of.Last != nil {
			words[0] = fmt.Sprintf("%s was last rehearsed with success %s ago", of.Cluster, ageOf(now(), *of.Last))
		}
		if of.Due != nil {
			word := "due at " + of.Due.Format(time.RFC3339)
			if !of.Due.After(now()) {
				word = "a drill is overdue"
			}
			words = append(words, word)
		}
		if of.Next != nil {
			words = append(words, "serve runs the next at "+of.Next.Format(time.RFC3339))
		}
		a.say("%s", strings.Join(words, "; "))
	}
	return nil
}

// change is how much longer or shorter something took.
func change(before, after float64) string {
	if before <= 0 {
		return ""
	}
	return fmt.Sprintf("%+.0f %%", 100*(after-before)/before)
}

func newDrillsVerifyCommand(a *app) *cobra.Command {
	var key, file string
	cmd := &cobra.Command{
		Use:   "verify [CLUSTER [DRILL]]",
		Short: "Check the signatures of reports",
		Long: `Checks every copy of the reports, in every store: that the key signed the JSON, and that the page beside it is the one that
belongs to it. The public key is that of drill_signing_key_file, or given. With --file a report's files are checked
where they lie, and nothing else is needed: no configuration, no store, no network.

Exit code 13 when a signature or a page does not fit or is missing, 3 when all signatures fit and some reports were never signed.`,
		Args: maxArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.verifyDrills(cmd.Context(), args, key, file) },
	}
	cmd.Flags().StringVar(&key, "public-key", "", "`KEY`: ed25519:… or a file with it, in one line or PEM")
	cmd.Flags().StringVar(&file, "file", "", "`FILE`.json of a report; FILE.sig and FILE.html lie beside it")
	return cmd
}

func (a *app) verifyDrills(ctx context.Context, args []string, keyText, file string) error {
	var key drills.PublicKey
	if keyText != "" {
		text := []byte(keyText)
		if !strings.HasPrefix(keyText, "ed25519:") {
			var err error
			if text, err = os.ReadFile(keyText); err != nil {
				return usage("--public-key: %v", err)
			}
		}
		var err error
		if key, err = drills.ParsePublicKey(text); err != nil {
			return usage("--public-key: %v", err)
		}
	}
	found := []drills.Signature{}
	if file != "" {
		if len(args) > 0 || key == nil {
			return usage("--file needs --public-key and nothing else")
		}
		stem := strings.TrimSuffix(file, ".json")
		found = append(found, drills.VerifyFiles(file, key, func(kind string) ([]byte, error) { return os.ReadFile(stem + "." + kind) }))
		return a.showSignatures(found)
	}
	targets, err := a.targets(&sourceFlags{}, args[:min(len(args), 1)])
	if err != nil {
		return err
	}
	var away error
	for _, t := range targets {
		own := key
		if own == nil {
			if t.cluster.DrillSigning == "" {
				return usage("cluster %s has no drill_signing_key_file: give --public-key", t.cluster.Name)
			}
			signer, err := drills.ReadSigner(string(t.cluster.DrillSigning))
			if err != nil {
				return err
			}
			own = signer.Public()
		}
		repo, err := t.repository(ctx)
		if err != nil {
			return err
		}
		all, err := repo.Drills(ctx)
		away = errors.Join(away, err)
		if len(args) == 2 {
			one, err := pickDrill(all, args[1])
			if err != nil {
				return errors.Join(err, away)
			}
			all = []repository.StoredDrill{one}
		}
		for _, d := range all {
			for _, store := range d.Stores {
				found = append(found, drills.Verify(ctx, repo, d, store, own))
			}
		}
	}
	return errors.Join(a.showSignatures(found), away)
}

// showSignatures says what became of each, and gives the exit code.
func (a *app) showSignatures(found []drills.Signature) error {
	code := exitOK
	var rows [][]string
	for _, s := range found {
		verdict := "ok"
		switch {
		case !s.Intact:
			verdict, code = "NOT OK", exitVerify
		case !s.OK:
			verdict = "unsigned"
			code = max(code, exitPartly)
		}
		rows = append(rows, []string{s.Drill, s.Store, verdict, s.Detail})
	}
	if a.json() {
		if err := a.printJSON(found); err != nil {
			return err
		}
	} else if err := a.table([]string{"DRILL", "WHERE", "VERDICT", "DETAIL"}, rows); err != nil {
		return err
	}
	if code != exitOK {
		return codeError{code}
	}
	return nil
}

// pickDrill finds a drill by its id, a prefix of at least four characters of it, or "latest".
func pickDrill(all []repository.StoredDrill, ref string) (repository.StoredDrill, error) {
	if ref == "latest" && len(all) > 0 {
		return all[len(all)-1], nil
	}
	var found []repository.StoredDrill
	for _, d := range all {
		if len(ref) >= 4 && strings.HasPrefix(d.ID, ref) {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return repository.StoredDrill{}, usage("there is no report of a drill %q: requorum drills shows those there are", ref)
	}
	return repository.StoredDrill{}, usage("%q fits %d drills: write more of the id", ref, len(found))
}

func newDrillsExportCommand(a *app) *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "export CLUSTER [DRILL]",
		Short: "Write a report's files to a directory, for an auditor",
		Long:  `Writes the JSON, the page and the signature of a drill (default the newest) to a directory, under the names that they have in the store.`,
		Args:  maxArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("CLUSTER is missing: %s", cmd.UseLine())
			}
			return a.exportDrill(cmd.Context(), args, dir)
		},
	}
	cmd.Flags().StringVarP(&dir, "directory", "d", ".", "`DIR` to write to")
	return cmd
}

func (a *app) exportDrill(ctx context.Context, args []string, dir string) error {
	t, err := a.target(args[0])
	if err != nil {
		return err
	}
	repo, err := t.repository(ctx)
	if err != nil {
		return err
	}
	all, err := repo.Drills(ctx)
	if err != nil && len(all) == 0 {
		return err
	}
	ref := "latest"
	if len(args) == 2 {
		ref = args[1]
	}
	d, err := pickDrill(all, ref)
	if err != nil {
		return err
	}
	written := []string{}
	for _, kind := range []string{catalog.DrillJSON, catalog.DrillHTML, catalog.DrillSignature} {
		text, err := repo.DrillFile(ctx, d.Drill, kind, "")
		if errors.Is(err, os.ErrNotExist) && kind == catalog.DrillSignature {
			a.say("the report is not signed")
			continue
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, filepath.Base(d.Key(kind)))
		if err := writeNew(path, text); err != nil {
			return err
		}
		written = append(written, path)
	}
	if a.json() {
		return a.printJSON(map[string]any{"drill": d.ID, "files": written})
	}
	for _, path := range written {
		fmt.Fprintln(a.out, path)
	}
	return nil
}
