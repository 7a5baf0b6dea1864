package drills

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/repository"
)

// trendLength is how many earlier drills a report shows.
const trendLength = 20

// ParseReport reads a report. One of a newer format is an error; unknown fields are ignored.
func ParseReport(text []byte) (Report, error) {
	var r Report
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("not a report of a drill: %w", err)
	}
	if r.Format != Format {
		return r, fmt.Errorf("report of format %d: this requorum reads %d", r.Format, Format)
	}
	return r, nil
}

// read reads one stored report, which must agree with its key.
func read(ctx context.Context, shelf Shelf, d catalog.Drill, store string) (Report, []byte, error) {
	text, err := shelf.DrillFile(ctx, d, catalog.DrillJSON, store)
	if err != nil {
		return Report{}, nil, err
	}
	r, err := ParseReport(text)
	if err == nil && r.ID != d.ID {
		err = fmt.Errorf("it is that of drill %s", r.ID)
	}
	if err != nil {
		return Report{}, nil, fmt.Errorf("report of drill %s: %w", d.ID, err)
	}
	return r, text, nil
}

// Stored reads the newest reports of a cluster, at most limit (0: all), the oldest first. What cannot be read comes as an error beside the others.
func Stored(ctx context.Context, shelf Shelf, limit int) ([]Report, error) {
	all, err := shelf.Drills(ctx)
	if limit > 0 && len(all) > limit {
		all = all[len(all)-limit:]
	}
	reports, errs := make([]Report, len(all)), make([]error, len(all))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, d := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			reports[i], _, errs[i] = read(ctx, shelf, d.Drill, "")
		})
	}
	wg.Wait()
	var good []Report
	for i := range reports {
		if errs[i] == nil {
			good = append(good, reports[i])
		}
	}
	return good, errors.Join(err, errors.Join(errs...))
}

// Trend is what the newest drills of a cluster came to, the oldest first.
func Trend(ctx context.Context, shelf Shelf, limit int) ([]Past, error) {
	reports, err := Stored(ctx, shelf, limit)
	trend := []Past{}
	for _, r := range reports {
		trend = append(trend, r.past())
	}
	return trend, err
}

// Memory remembers what drills came to, so that a report is read once. It is safe for concurrent use.
type Memory struct {
	mu    sync.Mutex
	known map[string]Past
}

// Last returns the newest drill that proved a restore, nil if none did. Reports that cannot be read are passed over, and
// make an error if none is found.
func (m *Memory) Last(ctx context.Context, shelf Shelf) (*Past, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = map[string]Past{}
	}
	all, err := shelf.Drills(ctx)
	for _, d := range slices.Backward(all) {
		p, ok := m.known[d.ID]
		if !ok {
			r, _, readErr := read(ctx, shelf, d.Drill, "")
			if readErr != nil {
				err = errors.Join(err, readErr)
				continue
			}
			p = r.past()
			m.known[d.ID] = p
		}
		if p.Outcome.Restored() {
			return &p, nil
		}
	}
	return nil, err
}

// Signature is what became of checking one copy of a report.
type Signature struct {
	Drill  string `json:"drill"`
	Store  string `json:"store"` // or the file
	Signed bool   `json:"signed"`
	Intact bool   `json:"intact"` // the page belongs to the report; of a signed one, the signature fits too
	OK     bool   `json:"ok"`     // signed and intact
	Detail string `json:"detail"`
}

// Verify checks the copy of a report in a store: that it was signed by the key, and that its page is the one that belongs to it.
func Verify(ctx context.Context, shelf Shelf, d repository.StoredDrill, store string, key PublicKey) Signature {
	return verify(d.ID, store, key, func(file string) ([]byte, error) { return shelf.DrillFile(ctx, d.Drill, file, store) })
}

// VerifyFiles is Verify of files that get returns by their names in package catalog.
func VerifyFiles(name string, key PublicKey, get func(file string) ([]byte, error)) Signature {
	return verify("", name, key, get)
}

func verify(id, where string, key PublicKey, get func(file string) ([]byte, error)) Signature {
	s := Signature{Drill: id, Store: where}
	bad := func(format string, args ...any) Signature {
		s.Detail = fmt.Sprintf(format, args...)
		return s
	}
	text, err := get(catalog.DrillJSON)
	if err != nil {
		return bad("%v", err)
	}
	sig, err := get(catalog.DrillSignature)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return bad("%v", err)
	}
	if s.Signed = err == nil; s.Signed { // before anything in it is believed
		if err := key.Verify(text, sig); err != nil {
			return bad("%v: the report was changed, or another key than %s signed it", err, key)
		}
	}
	r, err := ParseReport(text)
	if err != nil {
		return bad("%v", err)
	}
	if id != "" && r.ID != id {
		return bad("it is the report of drill %s", r.ID)
	}
	s.Drill = r.ID
	if !s.Signed && r.SignedBy != "" {
		return bad("the report says that %s signed it, and its signature is missing", r.SignedBy)
	}
	switch page, err := get(catalog.DrillHTML); {
	case err != nil:
		return bad("the page: %v", err)
	case digest(page) != r.HTML:
		return bad("the page is not the one that belongs to the report: its sha256 is %s, not %s", digest(page), r.HTML)
	}
	s.Intact = true
	if !s.Signed {
		return bad("not signed: anybody who can write to the store can have written it")
	}
	s.OK = true
	return bad("signed by %s, page included", key)
}
