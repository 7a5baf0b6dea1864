package main

import (
	"fmt"
	"os"
	"os/user"

	"github.com/spf13/cobra"

	"github.com/requorum/requorum/internal/config"
)

// sourceFlags stand for a configuration where there is no file.
type sourceFlags struct {
	endpoints    []string
	stores       []string
	path         string
	ca, crt, key string
	serverName   string
	username     string
	passwordFile string
	recipients   []string
	identity     string
	spoolDir     string
	tmpfs        bool
}

func (f *sourceFlags) addStores(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArrayVar(&f.stores, "store", nil, "without a configuration: `URL` of a store, s3://bucket/prefix?region=… or file:///path; may be repeated")
	flags.StringVar(&f.path, "path", "", "`PATH` in that store (default the cluster's name)")
}

func (f *sourceFlags) addIdentity(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.identity, "identity-file", "", "age identity `FILE` to decrypt with")
}

func (f *sourceFlags) addSpool(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.spoolDir, "spool-dir", "", "`DIR` for whole databases in plain text")
	flags.BoolVar(&f.tmpfs, "allow-tmpfs-spool", false, "let the spool directory be in memory")
}

func (f *sourceFlags) addEndpoints(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringSliceVar(&f.endpoints, "endpoints", nil, "without a configuration: client `URLS` of the members")
	flags.StringVar(&f.ca, "ca", "", "`FILE` of the authority that signed the members' certificates")
	flags.StringVar(&f.crt, "cert", "", "client certificate `FILE`")
	flags.StringVar(&f.key, "key", "", "client key `FILE`")
	flags.StringVar(&f.serverName, "server-name", "", "`NAME` that the members' certificates are for, if not the endpoints' own")
	flags.StringVar(&f.username, "username", "", "etcd `USER`")
	flags.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the user's password")
	flags.StringArrayVar(&f.recipients, "recipient", nil, "age `RECIPIENT` to encrypt to; may be repeated")
}

func (f *sourceFlags) given() bool { return len(f.stores) > 0 || len(f.endpoints) > 0 }

// alone is a flag that was given and says nothing without a store's URL; "" for none.
func (f *sourceFlags) alone() string {
	for _, flag := range []struct {
		name  string
		given bool
	}{{"--path", f.path != ""}, {"--ca", f.ca != ""}, {"--cert", f.crt != ""}, {"--key", f.key != ""}, {"--server-name", f.serverName != ""},
		{"--username", f.username != ""}, {"--password-file", f.passwordFile != ""}, {"--recipient", len(f.recipients) > 0}} {
		if flag.given {
			return flag.name
		}
	}
	return ""
}

// config is what the flags say.
func (f *sourceFlags) config(name string) (*config.Config, error) {
	return config.FromFlags(config.Flags{Cluster: name, Endpoints: f.endpoints, Stores: f.stores, Path: f.path,
		TLS: config.TLS{CA: config.File(f.ca), Cert: config.File(f.crt), Key: config.File(f.key), ServerName: f.serverName}, Username: f.username,
		PasswordFile: f.passwordFile, Recipients: f.recipients, IdentityFile: f.identity, SpoolDir: f.spoolDir, AllowTmpfsSpool: f.tmpfs})
}

// targetOr is the cluster of the flags if there are any, else that of the
// configuration, with another identity or spool directory where the flags name one.
func (a *app) targetOr(f *sourceFlags, name string) (*target, error) {
	if !f.given() {
		if flag := f.alone(); flag != "" {
			return nil, usage("%s describes a cluster without a configuration, and needs --store", flag)
		}
		t, err := a.target(name)
		if err != nil {
			return nil, err
		}
		if f.identity != "" {
			t.cluster.IdentityFile = config.File(f.identity)
		}
		if f.spoolDir != "" {
			t.cfg.SpoolDir = config.Path(f.spoolDir)
		}
		t.cfg.AllowTmpfsSpool = t.cfg.AllowTmpfsSpool || f.tmpfs
		return t, nil
	}
	cfg, err := f.config(name)
	if err != nil {
		return nil, err
	}
	return a.targetIn(cfg, name)
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return name
}

func username() string {
	u, err := user.Current()
	if err != nil { // a container's user needs no name
		return fmt.Sprintf("uid %d", os.Getuid())
	}
	return u.Username
}
