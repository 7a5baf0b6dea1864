package drills

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/restore"
	"github.com/requorum/requorum/storage/catalog"
)

// A bystander is a repository as a drill shows it to a restore: nothing is written to it. A drill's cluster is no line, its
// restore no record, and its source is read at once, so it needs no hold.
type bystander struct{ Repository }

// Record writes nothing.
func (bystander) Record(context.Context, catalog.Run) error { return nil }

// OpenLine opens none.
func (bystander) OpenLine(context.Context, catalog.Line) error { return nil }

// CreateHold holds nothing.
func (bystander) CreateHold(context.Context, catalog.Hold) error { return nil }

// ReleaseHold has nothing to release.
func (bystander) ReleaseHold(context.Context, string) error { return nil }

// A StoreFailure says that a drill's report or record is not in every store.
type StoreFailure struct{ Err error }

func (e *StoreFailure) Error() string { return "the evidence is not in every store: " + e.Err.Error() }

// Unwrap returns the stores' errors.
func (e *StoreFailure) Unwrap() error { return e.Err }

// objectives compares what was measured with what is asked for.
func (d *drill) objectives() ([]string, error) { return judge(&d.report, d.Asked) }

// judge fills in the objectives of a report.
func judge(r *Report, asked Asked) (evidence []string, err error) {
	var missed []string
	add := func(name string, limit time.Duration, measured float64, judged bool, detail string) {
		o := Objective{Name: name, Asked: limit.Seconds(), Measured: measured, Judged: judged && limit > 0, Detail: detail}
		o.Met = !o.Judged || measured <= limit.Seconds()
		r.Objectives = append(r.Objectives, o)
		switch {
		case limit <= 0:
			evidence = append(evidence, fmt.Sprintf("%s: %s measured, none is asked for", name, seconds(measured)))
		case !o.Judged:
			evidence = append(evidence, fmt.Sprintf("%s: %s", name, detail))
		default:
			evidence = append(evidence, fmt.Sprintf("%s: %s measured, %s asked for", name, seconds(measured), seconds(limit.Seconds())))
		}
		if !o.Met {
			missed = append(missed, fmt.Sprintf("%s is %s, asked for is %s", strings.ToUpper(name), seconds(measured), seconds(limit.Seconds())))
		}
	}
	detail := ""
	if r.Source.Asked != "" {
		detail = "not judged: an older backup was asked for"
	}
	add("rpo", asked.RPO, r.RPOSeconds, r.Source.Asked == "", detail)
	add("rto", asked.RTO, r.RTOSeconds, true, "")
	if len(missed) == 0 {
		return evidence, nil
	}
	return evidence, &finding{err: ErrObjective, expected: "every objective met", found: strings.Join(missed, "; "),
		try: "RPO: back up more often, and see why the newest backup is so old; RTO: see which step takes longest, and the disks and the network that it uses"}
}

// lasted judges the time since the last drill, for the report.
func lasted(r *Report, asked Asked) {
	if asked.DrillAge <= 0 {
		return
	}
	o := Objective{Name: "drill_age", Asked: asked.DrillAge.Seconds(), Met: true, Detail: "no drill is known before this one"}
	for _, p := range slices.Backward(r.Trend) {
		if p.Outcome.Restored() {
			o.Measured, o.Judged, o.Detail = r.Started.Sub(p.Started).Seconds(), true, "since the drill before this one; this one mends it"
			o.Met = o.Measured <= o.Asked
			break
		}
	}
	r.Objectives = append(r.Objectives, o)
}

// finish gives the drill its outcome, stores the evidence, and returns both.
func (d *drill) finish(ctx context.Context, err error) (Report, error) {
	d.report.Steps = d.steps
	return d.Common.finish(ctx, &d.report, d.snap, err)
}

// finish is about snap, the backup that the drill restored; the zero one if it came to none.
func (c *Common) finish(ctx context.Context, r *Report, snap catalog.Snapshot, err error) (Report, error) {
	r.Outcome = Proven
	switch {
	case errors.Is(err, ErrObjective):
		r.Outcome = Missed
	case err != nil:
		r.Outcome = Failed
	}
	r.OK = r.Outcome == Proven
	if err != nil {
		r.Failure = c.failure(err)
		if len(r.Objectives) == 0 {
			_, _ = judge(r, Asked{}) // measured, if not judged: the failure stands for itself
		}
	}
	mark := c.finding(r, snap)
	var trendErr error
	if r.Trend, trendErr = Trend(ctx, c.Repository, trendLength); trendErr != nil {
		r.Notes = append(r.Notes, "the trend may be incomplete: "+trendErr.Error())
	}
	lasted(r, c.Asked)
	r.Ended = c.Now().UTC()
	r.Seconds = r.Ended.Sub(r.Started).Seconds()
	drill := catalog.Drill{ID: r.ID, Time: r.Started}
	r.Report = drill.Key(catalog.DrillHTML)
	files, fileErr := c.files(r)
	if fileErr != nil {
		return *r, errors.Join(err, fileErr)
	}
	storeErr := errors.Join(c.Repository.StoreDrill(ctx, drill, files), c.Repository.Record(ctx, c.record(r)))
	if mark != nil { // after what it refers to
		storeErr = errors.Join(storeErr, c.Repository.MarkDrilled(ctx, snap, *mark))
	}
	if storeErr != nil {
		err = errors.Join(err, &StoreFailure{storeErr})
	}
	return *r, err
}

// The exit codes that are verdicts about a backup's data: that it holds nothing to restore, and that it is not what it must be. All others are about
// the machine, the keys, the configuration or the agents of the drill.
const (
	codeNothing = 10
	codeVerify  = 13
)

// finding is what the drill found about the backup; nil if it came to no verdict about it, which the report notes.
func (c *Common) finding(r *Report, snap catalog.Snapshot) *catalog.Rehearsal {
	found := &catalog.Rehearsal{Drill: catalog.Drill{ID: r.ID, Time: r.Started}, Failed: r.Outcome == Failed}
	switch {
	case snap.ID == "":
		return nil
	case !found.Failed:
	case r.Failure.Code == codeNothing, r.Failure.Code == codeVerify:
		r.Notes = append(r.Notes, fmt.Sprintf("this speaks against backup %s: it is marked, so that lists, show and the plan of a restore from it say so, until a drill restores it", snap.ID))
	default:
		r.Notes = append(r.Notes, fmt.Sprintf("this is no verdict about the data of backup %s, which is not marked", snap.ID))
		return nil
	}
	return found
}

// files are the report as it is stored.
func (c *Common) files(r *Report) (map[string][]byte, error) {
	r.settle()
	if c.Signer != nil {
		r.SignedBy = c.Signer.Public().String()
	}
	page, err := r.Page()
	if err != nil {
		return nil, err
	}
	r.HTML = digest(page)
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("report of drill %s: %w", r.ID, err)
	}
	text = append(text, '\n')
	files := map[string][]byte{catalog.DrillHTML: page, catalog.DrillJSON: text}
	if c.Signer != nil {
		files[catalog.DrillSignature] = c.Signer.Sign(text)
	}
	return files, nil
}

// failure takes an error apart: which step, what was expected, what was found, what to try.
func (c *Common) failure(err error) *Failure {
	f := &Failure{Step: "drill", Found: err.Error(), Code: c.Code(err)}
	var at *stepError
	if errors.As(err, &at) {
		f.Step, f.Found = at.step, at.err.Error()
	}
	_, f.Expected = describe(f.Step)
	var known *finding
	if errors.As(err, &known) {
		f.Expected, f.Found, f.Try = known.expected, known.found, known.try
	}
	if f.Try == "" {
		f.Try = c.Advise(err)
	}
	if f.Try == "" {
		f.Try = map[string]string{
			"source": "requorum list " + c.Cluster, "fetch": "requorum verify " + c.Cluster + ", and look at the other stores' copies", "check": "requorum verify " + c.Cluster + "; take another backup",
			"agents": "look at the checks of each agent in this report",
		}[f.Step]
	}
	if f.Try == "" {
		f.Try = "the evidence of the step says what was going on; the same drill again with -v says more"
	}
	return f
}

// record is what the runs of the cluster keep.
func (c *Common) record(r *Report) catalog.Run {
	run := catalog.Run{ID: r.ID, Kind: RecordKind, Outcome: string(r.Outcome), Cluster: r.Cluster, Host: r.By.Host, User: r.By.User, Version: r.Versions.Requorum,
		Started: r.Started, Ended: r.Ended, Snapshot: r.Source.ID}
	if r.Failure != nil {
		run.Error = r.Failure.Step + ": " + r.Failure.Found
	}
	run.Detail, _ = json.Marshal(map[string]any{"rpo_seconds": r.RPOSeconds, "rto_seconds": r.RTOSeconds, "report": r.Report}) // numbers and a text: never fails
	return run
}

// seconds writes a duration as a person reads it, on one line.
func seconds(s float64) string {
	switch d := time.Duration(s * float64(time.Second)); {
	case d < time.Second:
		return fmt.Sprintf("%d\u202fms", d.Round(time.Millisecond).Milliseconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.1f\u202fs", s)
	default:
		return catalog.Age(d)
	}
}

type silent struct{}

func (silent) Start(string, int64)   {}
func (silent) Advance(string, int64) {}
func (silent) Done(string, string)   {}
func (silent) Say(string, ...any)    {}

var _ restore.Repository = bystander{}
