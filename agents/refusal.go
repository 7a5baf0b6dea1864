package agents

import (
	"errors"
	"fmt"
)

// Refusal is a question that only the operator can answer. It is an error:
// nothing is changed before it is answered (exit code 14).
type Refusal struct {
	What string `json:"what"` // what was found, and where
	Risk string `json:"risk"` // what may happen if it is allowed, or what each answer means
	Flag string `json:"flag"` // the exact flag, or the alternatives joined by " or "
}

func (r Refusal) Error() string {
	return fmt.Sprintf("%s; %s (%s)", r.What, r.Risk, r.Flag)
}

// SplitRefusals takes the refusals out of an error that may join several. What
// is left, in rest, is a failure of another kind. A Refusal that is wrapped
// with more context counts as rest: wrap errors, not questions.
func SplitRefusals(err error) (refusals []Refusal, rest error) {
	if err == nil {
		return nil, nil
	}
	if r, ok := err.(Refusal); ok {
		return []Refusal{r}, nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return nil, err
	}
	var others []error
	for _, e := range joined.Unwrap() {
		r, o := SplitRefusals(e)
		refusals = append(refusals, r...)
		if o != nil {
			others = append(others, o)
		}
	}
	if len(refusals) == 0 {
		return nil, err
	}
	return refusals, errors.Join(others...)
}

// JoinRefusals is the inverse of [SplitRefusals]: nil for none.
func JoinRefusals(refusals []Refusal) error {
	errs := make([]error, len(refusals))
	for i, r := range refusals {
		errs[i] = r
	}
	return errors.Join(errs...)
}
