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
	switch e := any(err).(type) { // the error itself, not what it wraps
	case Refusal:
		return []Refusal{e}, nil
	case interface{ Unwrap() []error }:
		var others []error
		for _, part := range e.Unwrap() {
			r, o := SplitRefusals(part)
			refusals = append(refusals, r...)
			others = append(others, o)
		}
		if len(refusals) > 0 {
			return refusals, errors.Join(others...)
		}
	}
	return nil, err
}

// JoinRefusals is the inverse of [SplitRefusals]: nil for none.
func JoinRefusals(refusals []Refusal) error {
	errs := make([]error, len(refusals))
	for i, r := range refusals {
		errs[i] = r
	}
	return errors.Join(errs...)
}
