package service

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/storage/catalog"
)

const (
	// doubtful is how long a suspicious backup stays reported: the next backup does not make it better.
	doubtful = 24 * time.Hour
	// doubtKind is the kind of the records that say what backups brought to light. By them the next leader, and this one after a new start, goes on
	// reporting it.
	doubtKind = "doubt"
)

// doubt is since when something is suspicious, and the first backup that showed it.
type doubt struct {
	backup string
	since  time.Time
}

// leaveDoubts records what a backup brought to light.
func (s *Service) leaveDoubts(ctx context.Context, log *slog.Logger, c Cluster, r Result) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), smallTimeout)
	defer cancel()
	detail, err := json.Marshal(r.Alerts)
	if err == nil {
		err = c.Repository.Record(ctx, catalog.Run{ID: catalog.NewID(catalog.KindRun), Kind: doubtKind, Outcome: "ok", Cluster: c.Name, Host: s.o.Host, Version: s.o.Version,
			Started: r.Ended.UTC(), Ended: r.Ended.UTC(), Snapshot: r.Backup, Detail: detail})
	}
	if err != nil {
		log.Warn("what is suspicious of the backup is not recorded in every store: another replica would not know it", "backup", r.Backup, "error", err)
	}
}

// recall goes on reporting what any replica found within the last day. It returns false when not all of that could be read.
func (u *unit) recall(ctx context.Context, c Cluster, term int) bool {
	leave, err := u.s.small.Enter(ctx, "records")
	if err != nil {
		return false
	}
	defer leave()
	read, cancel := context.WithTimeout(ctx, smallTimeout)
	defer cancel()
	now := u.s.o.Now()
	runs, err := c.Repository.RunsOf(read, doubtKind, now.Add(-doubtful))
	if err != nil && ctx.Err() == nil {
		u.s.o.Log.Warn("what was suspicious of earlier backups is not wholly known", "cluster", c.Name, "error", err)
	}
	found := map[string]doubt{}
	for _, r := range runs {
		var texts []string
		if err := json.Unmarshal(r.Detail, &texts); err != nil {
			u.s.o.Log.Warn("what was suspicious of an earlier backup cannot be read", "cluster", c.Name, "run", r.ID, "error", err)
		}
		for _, text := range texts {
			if first, known := found[text]; known {
				found[text] = doubt{first.backup, r.Started}
			} else {
				found[text] = doubt{r.Snapshot, r.Started}
			}
		}
	}
	if len(found) > 0 {
		u.in(term, func() { u.suspect(now, found) })
	}
	return err == nil
}

// suspect reports what was found, and what was before and is not a day old.
func (u *unit) suspect(now time.Time, found map[string]doubt) {
	u.mu.Lock()
	for text, d := range found {
		if first, known := u.doubts[text]; known {
			d = doubt{first.backup, d.since}
		}
		u.doubts[text] = d
	}
	maps.DeleteFunc(u.doubts, func(_ string, d doubt) bool { return now.Sub(d.since) > doubtful })
	var texts []string
	for text, d := range u.doubts {
		texts = append(texts, fmt.Sprintf("backup %s: %s", d.backup, text))
	}
	u.mu.Unlock()
	if len(texts) == 0 {
		u.s.alerts.set(u.name, "doubts")
		return
	}
	slices.Sort(texts)
	u.s.alerts.set(u.name, "doubts", Problem{Name: SuspiciousBackup, Severity: Critical, What: strings.Join(texts, "; "), Advice: "compare with: requorum list " + u.name})
}
