package agents

import (
	"context"
	"fmt"
	"iter"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/errgroup"
)

// Gate asks all agents at once and returns their answers by Configured.Name,
// fit for Options.Baselines. keys is the key space of the backup, nil when it is
// not at hand; before are the answers of an earlier gate of the same run, nil at
// the first.
func Gate(ctx context.Context, configured []Configured, keys func(prefix string) iter.Seq[*mvccpb.KeyValue], before map[string]Baseline) (map[string]Baseline, error) {
	answers := make([]Baseline, len(configured))
	group, ctx := errgroup.WithContext(ctx)
	for i, c := range configured {
		group.Go(func() error {
			known := Known{Keys: keys}
			if b, asked := before[c.Name]; asked {
				known.Before = &b
			}
			b, err := c.Agent.Gate(ctx, known)
			if err != nil {
				return fmt.Errorf("ask agent %s: %w", c.Name, err)
			}
			b.Agent = c.Name
			answers[i] = b
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := make(map[string]Baseline, len(configured))
	for _, b := range answers {
		all[b.Agent] = b
	}
	return all, nil
}

// Verify waits for the verdicts of all agents at once, in the order of
// configured. The deadline is that of ctx. Of an agent that was not asked at
// the gate the baseline is empty, so nothing is claimed about loss. An agent
// with nothing to prove (an empty Verdict.Verdict) is left out.
func Verify(ctx context.Context, configured []Configured, bases map[string]Baseline, done Restored) ([]Verdict, error) {
	verdicts := make([]Verdict, len(configured))
	group, ctx := errgroup.WithContext(ctx)
	for i, c := range configured {
		group.Go(func() error {
			own := done
			if done.Tell != nil {
				own.Tell = func(v Verdict) {
					v.Name = c.Name
					done.Tell(v)
				}
			}
			v, err := c.Agent.Verify(ctx, bases[c.Name], own)
			if err != nil {
				return fmt.Errorf("verify agent %s: %w", c.Name, err)
			}
			v.Name = c.Name
			verdicts[i] = v
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(verdicts, func(v Verdict) bool { return v.Verdict == "" }), nil
}
