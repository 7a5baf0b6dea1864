package local

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/requorum/requorum/restore"
)

func (p *place) journalFile(run string) string { return filepath.Join(p.state, run+".json") }

// journal reads a run's journal; nil if there is none.
func (p *place) journal(run string) (*restore.Journal, error) {
	data, err := os.ReadFile(p.journalFile(run))
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: read the journal: %w", p.member.Name, err)
	}
	var j restore.Journal
	if err := json.Unmarshal(data, &j); err != nil {
		return nil, fmt.Errorf("%s: the journal %s is unreadable: %w", p.member.Name, p.journalFile(run), err)
	}
	if j.Format > restore.PlanFormat {
		return nil, fmt.Errorf("%s: the journal %s has format %d, which a newer requorum wrote: go on with that version", p.member.Name, p.journalFile(run), j.Format)
	}
	return &j, nil
}

// newestJournal is that of the unfinished run, else of the run that was planned last.
func (p *place) newestJournal() (*restore.Journal, error) {
	files, err := filepath.Glob(filepath.Join(globQuote(p.state), "*.json"))
	if err != nil {
		return nil, err
	}
	var best *restore.Journal
	for _, f := range files {
		j, err := p.journal(strings.TrimSuffix(filepath.Base(f), ".json"))
		if err != nil {
			return nil, err
		}
		if j != nil && (best == nil || newer(j, best)) {
			best = j
		}
	}
	return best, nil
}

func newer(a, b *restore.Journal) bool {
	if a.Ended.IsZero() != b.Ended.IsZero() {
		return a.Ended.IsZero()
	}
	return a.Plan.Started.After(b.Plan.Started)
}

func globQuote(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func (p *place) writeJournal(j *restore.Journal) error {
	data, err := json.MarshalIndent(j, "", " ")
	if err != nil {
		return err
	}
	if err := writeFile(p.journalFile(j.Run), data); err != nil {
		return fmt.Errorf("%s: write the journal: %w", p.member.Name, err)
	}
	return nil
}

// ensureJournal writes the journal of a run that begins here. The caller guards the lock.
func (p *place) ensureJournal(ctx context.Context, h *Host, plan *restore.Plan) error {
	j, err := p.journal(plan.Run)
	if err != nil || j != nil {
		return err
	}
	use, err := p.inUse(ctx)
	if err != nil {
		return err
	}
	return p.writeJournal(&restore.Journal{Format: restore.PlanFormat, Run: plan.Run, Plan: *plan,
		Here: restore.Here{WasRunning: p.runs(use), Units: p.paths()}})
}

// runs says whether the member runs. A service that is up without a database tries in vain to begin an empty member: no rollback helps it to.
func (p *place) runs(u use) bool { return len(u.processes) > 0 || u.active && p.holds() }

// noteRunning writes down, before a stop, that the old member runs after all: somebody started it since the run began, and a rollback starts it again.
func (p *place) noteRunning(ctx context.Context) error {
	j, err := p.ownJournal()
	if err != nil || j.Here.WasRunning || !j.Here.SwapBegun.IsZero() {
		return err
	}
	u, err := p.inUse(ctx)
	if err != nil || !p.runs(u) {
		return err
	}
	j.Here.WasRunning = true
	return p.writeJournal(j)
}

// record replaces the plan, which only ever grows.
func (p *place) record(plan *restore.Plan) error {
	if plan == nil {
		return fmt.Errorf("%s: record: the request has no plan", p.member.Name)
	}
	return p.update(func(j *restore.Journal) { j.Plan = *plan })
}

// update changes the run's journal.
func (p *place) update(change func(j *restore.Journal)) error {
	j, err := p.ownJournal()
	if err != nil {
		return err
	}
	change(j)
	return p.writeJournal(j)
}

func (p *place) ownJournal() (*restore.Journal, error) {
	j, err := p.journal(p.run)
	if err == nil && j == nil {
		err = p.fault(restore.HostLocked, "run the same command again", "the journal of run %s is gone", p.run)
	}
	return j, err
}
