package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"filippo.io/age"

	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/dbfile"
	"github.com/requorum/requorum/internal/seal"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/file"
	"github.com/requorum/requorum/storage/repository"
	"github.com/requorum/requorum/storage/s3"
)

// target is one cluster with all that the configuration says of it. Its methods
// map the configuration to the options of each package: nothing else reads it.
type target struct {
	*app
	cfg     *config.Config
	cluster *config.Cluster
	stores  map[string]storage.Store // that are open already, by name; nil: each repository opens its own
}

// load reads the configuration. A broken one stops every command but config check. What it warns of is for that one and serve to say.
func (a *app) load() (*config.Config, error) {
	path, err := config.Find(a.configFile)
	if err != nil {
		return nil, err
	}
	cfg, err := config.Load(path, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	return cfg, nil
}

// target returns the cluster that a command is about; name may be empty when
// there is only one.
func (a *app) target(name string) (*target, error) {
	cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	return a.targetIn(cfg, name)
}

func (a *app) targetIn(cfg *config.Config, name string) (*target, error) {
	cl, err := cfg.Cluster(name)
	if err != nil {
		return nil, usage("%v", err)
	}
	return &target{app: a, cfg: cfg, cluster: cl}, nil
}

// openStore connects to one store.
func openStore(ctx context.Context, st *config.Store) (storage.Store, error) {
	switch {
	case st.File != nil:
		s, err := file.New(file.Options{Dir: string(st.File.Path)})
		if err != nil {
			return nil, fmt.Errorf("store %s: %w", st.Name, err)
		}
		return storage.Retry(s, storage.RetryOptions{}), nil
	case st.S3 != nil:
		key, secret, token, err := st.S3.Credentials()
		if err != nil {
			return nil, fmt.Errorf("store %s: %w", st.Name, err)
		}
		s, err := s3.New(ctx, s3.Options{
			Bucket: st.S3.Bucket, Prefix: st.S3.Prefix, Region: st.S3.Region, Endpoint: string(st.S3.Endpoint),
			PathStyle: st.S3.PathStyle, CA: string(st.S3.CA), Profile: st.S3.Profile,
			AccessKeyID: key, SecretAccessKey: secret.Reveal(), SessionToken: token.Reveal(),
			StorageClass: st.S3.StorageClass, SSE: st.S3.SSE, KMSKey: st.S3.KMSKey,
		})
		if err != nil {
			return nil, fmt.Errorf("store %s: %w", st.Name, err)
		}
		return storage.Retry(s, storage.RetryOptions{}), nil
	}
	return nil, fmt.Errorf("store %s: neither s3 nor file", st.Name)
}

// awayFor is how long a store that could not be reached is left alone where there are others.
const awayFor = 30 * time.Second

// repository opens the backups of the cluster in its stores.
func (t *target) repository(ctx context.Context) (*repository.Repository, error) {
	o := repository.Options{Cluster: t.cluster.Name, Path: t.cluster.Path, Log: t.log(), SweepAfter: time.Duration(t.cluster.SweepAfter)}
	for _, name := range t.cluster.Stores {
		s, open := t.stores[name]
		if !open {
			var err error
			if s, err = openStore(ctx, t.cfg.Stores[name]); err != nil {
				return nil, err
			}
		}
		if len(t.cluster.Stores) > 1 {
			s = storage.Spare(s, awayFor, nil)
		}
		o.Stores = append(o.Stores, repository.Named{Name: name, Store: s})
	}
	for _, r := range t.cluster.Recipients {
		to, err := seal.ParseRecipient(string(r))
		if err != nil {
			return nil, err
		}
		o.Recipients = append(o.Recipients, to)
	}
	var err error
	if o.Identities, err = t.identities(); err != nil {
		return nil, err
	}
	return repository.New(o)
}

func (t *target) identities() ([]age.Identity, error) {
	if t.cluster.IdentityFile == "" {
		return nil, nil
	}
	ids, err := seal.ReadIdentities(string(t.cluster.IdentityFile))
	if err != nil {
		return nil, usage("cluster %s: %v", t.cluster.Name, err)
	}
	return ids, nil
}

// dial prepares clients of the endpoints. Nothing is sent yet.
func (t *target) dial() (*cluster.Client, error) {
	return t.dialTo(nil)
}

// dialTo is dial with other endpoints than the configured ones.
func (t *target) dialTo(endpoints []string) (*cluster.Client, error) {
	o, err := t.connection(t.cluster.Connection)
	if err != nil {
		return nil, err
	}
	if endpoints != nil {
		o.Endpoints = endpoints
	}
	if len(o.Endpoints) == 0 {
		return nil, usage("cluster %s has no endpoints: give them in the configuration or with --endpoints", t.cluster.Name)
	}
	return cluster.Dial(o)
}

func (t *target) connection(c config.Connection) (cluster.Options, error) {
	o := cluster.Options{DialTimeout: time.Duration(t.cluster.Snapshot.DialTimeout), Dial: t.tunnel(), Log: t.log()}
	for _, e := range c.Endpoints {
		o.Endpoints = append(o.Endpoints, string(e))
	}
	var err error
	if o.TLS, err = c.TLSConfig(time.Now); err != nil {
		return o, err
	}
	username, password, err := c.Credentials()
	if err != nil {
		return o, err
	}
	o.Username, o.Password = username, password.Reveal()
	return o, nil
}

// selection is what the agents need to see of a database beside the leased keys.
func selection(configured []agents.Configured) dbfile.Select {
	return dbfile.Select(agents.Selection(configured))
}

// policy is the retention; nil keeps everything.
func (t *target) policy() (catalog.Policy, bool) {
	r := t.cluster.Retention
	if r == nil {
		return catalog.Policy{}, false
	}
	return catalog.Policy{Last: r.Last, Within: time.Duration(r.Within), Hourly: r.Hourly, Daily: r.Daily, Weekly: r.Weekly,
		Monthly: r.Monthly, Yearly: r.Yearly, Minimum: r.Minimum, OldLines: time.Duration(r.OldLines)}, true
}

// facts is how a backup learns of the agents. What a restore would ask about leased keys of no agent is said early.
func (t *target) facts() (backup.Agents, error) {
	configured, _, err := t.agents()
	if err != nil {
		return backup.Agents{}, err
	}
	return backup.Agents{
		Select: selection(configured),
		Facts: func(ctx context.Context, kv backup.KeyReader) (catalog.Facts, []string, error) {
			facts, err := agents.Facts(ctx, kv, configured)
			decision, ghostErr := agents.Ghosts(kv, configured, agents.Options{KeepPrefixes: prefixes(t.cluster.KeepLeased)})
			var early []string
			for _, r := range decision.Refusals {
				if strings.Contains(r.Flag, "--keep-leased") {
					early = append(early, "a restore will ask: "+r.What+" (agents or keep_leased in the configuration answer that now)")
				}
			}
			return facts, early, errors.Join(err, ghostErr)
		},
	}, nil
}
