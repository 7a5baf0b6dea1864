// Package config reads requorum's configuration: strict YAML in which every problem is
// found in one pass and named with file, line, column and key.
//
// The types below are the schema. A field's key tag is its name in the file ("required" when it must be
// written), its default tag the value that an absent key has: the decoder, [Default], the reference in
// docs/configuration.md (held to it by a test) and the writer of recovered files all read these tags.
//
// Only cmd imports this package; it hands plain values on to the others.
package config

import (
	"cmp"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Config is one configuration as read. All paths in it are absolute, all ${VAR} are filled in, all
// defaults applied. It is not changed after it was read.
type Config struct {
	Clusters        map[string]*Cluster `key:"clusters,required"`
	Stores          map[string]*Store   `key:"stores,required"`
	SpoolDir        Path                `key:"spool_dir" default:"/var/lib/requorum/spool"`
	AllowTmpfsSpool bool                `key:"allow_tmpfs_spool" default:"false"`
	SSH             SSH                 `key:"ssh"`
	Election        *Election           `key:"election"`
	Serve           Serve               `key:"serve"`
	Notify          Notify              `key:"notify"`

	// File is the file read, as it was named; "command line" for [FromFlags].
	File string
	// Warnings are findings that stop nothing, such as a secret's file that everyone may read.
	Warnings Problems

	at     map[string]position
	bad    map[string]bool // keys whose values did not decode
	source *yaml.Node
}

// Connection is how to reach an etcd.
type Connection struct {
	Endpoints []URL `key:"endpoints"`
	Access
}

// Access is what a server asks of its client: TLS and a password.
type Access struct {
	TLS          *TLS   `key:"tls"`
	Username     string `key:"username"`
	Password     Secret `key:"password"`
	PasswordFile File   `key:"password_file"`
}

// TLS is the client's side of a TLS connection. Without CA the system's roots are trusted.
type TLS struct {
	CA         File   `key:"ca"`
	Cert       File   `key:"cert"`
	Key        File   `key:"key"`
	ServerName string `key:"server_name"`
}

// Cluster is one etcd cluster: how to reach it, where its backups go, when, how long they are kept, and where
// a restore rebuilds it.
type Cluster struct {
	// Name is the key under clusters.
	Name string

	Connection
	Stores        []string    `key:"stores,required"`
	Path          string      `key:"path" default:"(the cluster's name)"`
	Recipients    []Recipient `key:"recipients"`
	IdentityFile  File        `key:"identity_file"`
	Schedules     Schedules   `key:"schedules"`
	Snapshot      Snapshot    `key:"snapshot"`
	Retention     *Retention  `key:"retention"`
	SweepAfter    Duration    `key:"sweep_after" default:"7d"`
	Objectives    Objectives  `key:"objectives"`
	Thresholds    Thresholds  `key:"thresholds"`
	Heartbeat     *SecretURL  `key:"heartbeat"`
	KeepLeased    []KeyPrefix `key:"keep_leased" default:"[/registry/events/]"`
	LiveDrills    Permission  `key:"live_drills" default:"refused"`
	DrillSigning  File        `key:"drill_signing_key_file"`
	EtcdBinary    File        `key:"etcd_binary" default:"(embedded)"`
	TargetVersion Version     `key:"target_version" default:"(as found)"`
	Members       []Member    `key:"members"`
	Agents        []Agent     `key:"agents"`
}

// Schedules are the times at which serve does something by itself.
type Schedules struct {
	Snapshot    Crons    `key:"snapshot"`
	Verify      Crons    `key:"verify"`
	Expire      Crons    `key:"expire"`
	Drill       Crons    `key:"drill"`
	Jitter      Duration `key:"jitter" default:"1m"`
	Deadline    Duration `key:"deadline" default:"2h"`
	VerifyCount int      `key:"verify_count" default:"10"`
}

// Snapshot bounds the taking of one snapshot.
type Snapshot struct {
	DialTimeout  Duration `key:"dial_timeout" default:"5s"`
	StallTimeout Duration `key:"stall_timeout" default:"30s"`
}

// Retention says which backups of a line are kept. A cluster without it keeps all of them.
type Retention struct {
	Last     int      `key:"last" default:"0"`
	Within   Duration `key:"within" default:"0s"`
	Hourly   int      `key:"hourly" default:"0"`
	Daily    int      `key:"daily" default:"0"`
	Weekly   int      `key:"weekly" default:"0"`
	Monthly  int      `key:"monthly" default:"0"`
	Yearly   int      `key:"yearly" default:"0"`
	Minimum  int      `key:"minimum" default:"3"`
	OldLines Duration `key:"old_lines" default:"90d"`
}

// Objectives are what the cluster's owner asks for. A zero one is not asked for.
type Objectives struct {
	RPO      Duration `key:"rpo"`
	RTO      Duration `key:"rto"`
	DrillAge Duration `key:"drill_age"`
}

// Thresholds say from where on check and serve call something a problem. A zero one is not judged.
type Thresholds struct {
	QuorumMargin        int      `key:"quorum_margin" default:"1"`
	DatabaseWarning     Percent  `key:"database_warning" default:"75%"`
	DatabaseCritical    Percent  `key:"database_critical" default:"90%"`
	Quota               Bytes    `key:"quota" default:"(as the server tells)"`
	Fragmentation       Percent  `key:"fragmentation" default:"60%"`
	Lag                 int      `key:"lag" default:"5000"`
	ClockSkew           Duration `key:"clock_skew" default:"2s"`
	CertificateWarning  Duration `key:"certificate_warning" default:"21d"`
	CertificateCritical Duration `key:"certificate_critical" default:"3d"`
	LeaderChanges       int      `key:"leader_changes" default:"5"`
	VerificationAge     Duration `key:"verification_age" default:"7d"`
	Observations        int      `key:"observations" default:"3"`
}

// Member is one member as a restore rebuilds it.
type Member struct {
	Name      string   `key:"name,required"`
	Host      Host     `key:"host" default:"local"`
	PeerURL   URL      `key:"peer_url,required"`
	ClientURL URL      `key:"client_url,required"`
	DataDir   HostPath `key:"data_dir,required"`
	WALDir    HostPath `key:"wal_dir" default:"\"\""`
	Service   Service  `key:"service,required"`
}

// Service is how a member's etcd is started and stopped: exactly one of Systemd (a unit), StaticPod (its
// manifest) or the three commands, which may come with Inhibit and Allow. Commands run by /bin/sh -c.
type Service struct {
	Systemd   string   `key:"systemd"`
	StaticPod HostPath `key:"static_pod"`
	Start     string   `key:"start"`
	Stop      string   `key:"stop"`
	Status    string   `key:"status"`
	Inhibit   string   `key:"inhibit"`
	Allow     string   `key:"allow"`
}

// Store is one place for backups; exactly one field besides Name is set.
type Store struct {
	// Name is the key under stores.
	Name string

	S3   *S3        `key:"s3"`
	File *Directory `key:"file"`
}

// S3 is a bucket. Without AccessKey the credentials come from the AWS SDK's chain: environment, shared files
// (Profile), the instance's or the pod's role.
type S3 struct {
	Bucket        string `key:"bucket,required"`
	Prefix        string `key:"prefix" default:"\"\""`
	Region        string `key:"region" default:"(the SDK's)"`
	Endpoint      URL    `key:"endpoint" default:"(AWS)"`
	PathStyle     bool   `key:"path_style" default:"false"`
	CA            File   `key:"ca" default:"(the system's roots)"`
	Profile       string `key:"profile" default:"(the SDK's)"`
	AccessKey     string `key:"access_key" default:"(the SDK's)"`
	SecretKey     Secret `key:"secret_key"`
	SecretKeyFile File   `key:"secret_key_file"`
	SessionToken  Secret `key:"session_token"`
	StorageClass  string `key:"storage_class" default:"(the bucket's)"`
	SSE           string `key:"sse" default:"(the bucket's)"`
	KMSKey        string `key:"kms_key" default:"(the account's)"`
}

// Directory is a directory as a store. It need not exist when the configuration is read.
type Directory struct {
	Path Path `key:"path,required"`
}

// SSH is how members' hosts are reached. What is not written is as ssh(1) has it: by ~/.ssh/config, the usual keys and known_hosts.
type SSH struct {
	Config        File   `key:"config" default:"(~/.ssh/config, /etc/ssh/ssh_config)"`
	IdentityFiles []File `key:"identity_files" default:"(as ssh has them)"`
	KnownHosts    []File `key:"known_hosts" default:"(as ssh has them)"`
	Sudo          bool   `key:"sudo" default:"true"`
	Binaries      []File `key:"binaries"`
}

// Election is the coordination etcd through which several replicas of serve share the clusters.
type Election struct {
	Connection
	Prefix string   `key:"prefix" default:"/requorum"`
	Lease  Duration `key:"lease" default:"15s"`
}

// Serve is how serve works, and who may reach it.
type Serve struct {
	Listen     string     `key:"listen" default:"127.0.0.1:9379"`
	TLS        *ServerTLS `key:"tls"`
	Token      Secret     `key:"token"`
	TokenFile  File       `key:"token_file"`
	RunsAtOnce int        `key:"runs_at_once" default:"4"`
	Grace      Duration   `key:"grace" default:"1m"`
	Watch      Duration   `key:"watch" default:"15s"`
}

// ServerTLS is the server's side of TLS.
type ServerTLS struct {
	Cert     File `key:"cert,required"`
	Key      File `key:"key,required"`
	ClientCA File `key:"client_ca"`
}

// Default is an empty configuration with all defaults that do not hang on other keys.
func Default() *Config {
	c := &Config{}
	applyDefaults(valueOf(c))
	return c
}

// DefaultCluster is a cluster with all defaults that do not hang on other keys.
func DefaultCluster() *Cluster {
	c := &Cluster{}
	applyDefaults(valueOf(c))
	return c
}

// Cluster returns a cluster by name. The error names the clusters that there are. An empty name means the only
// cluster, when there is one only.
func (c *Config) Cluster(name string) (*Cluster, error) {
	if cl := c.Clusters[name]; cl != nil {
		return cl, nil
	}
	names := sortedKeys(c.Clusters)
	if name == "" && len(names) == 1 {
		return c.Clusters[names[0]], nil
	}
	p := c.At("clusters")
	p.What = "there is no cluster " + quote(name)
	if name == "" {
		p.What = "no cluster was named"
	}
	p.Advice = "name one of " + join(names)
	return nil, Problems{p}
}

// Sorted returns all clusters in the order of their names.
func (c *Config) Sorted() []*Cluster {
	all := make([]*Cluster, 0, len(c.Clusters))
	for _, cl := range c.Clusters {
		all = append(all, cl)
	}
	slices.SortFunc(all, func(a, b *Cluster) int { return cmp.Compare(a.Name, b.Name) })
	return all
}
