package member

import (
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
)

// Options describe one etcd member.
type Options struct {
	Name    string // default "default"
	DataDir string
	WALDir  string // empty: member/wal in DataDir

	// ListenClient and ListenPeer are comma-separated URLs, advertised as they are. Empty: a free port of 127.0.0.1.
	ListenClient, ListenPeer string

	// InitialCluster, "name=url,…", and Token found a cluster when DataDir holds none. Empty: this member alone.
	InitialCluster, Token string

	TLS *TLS // of the clients' side; nil: plain

	ForceNewCluster bool // a cluster of this member alone, from its data

	Tick       time.Duration // heartbeat interval; the election timeout is ten times as long. 0: 100 ms
	QuotaBytes int64         // of the backend. 0: etcd's default, negative: none
	NoFsync    bool          // for data that may be lost
	Lazy       bool          // leave what a compaction frees in the file: for a server that ends in a moment
	LogFile    string        // where the server logs; empty: DataDir with ".log" appended
}

// TLS are the files with which a member serves https and asks its clients for certificates. ListenClient must say https, or be empty.
type TLS struct{ CA, Cert, Key string }

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = embed.DefaultName
	}
	if o.DataDir == "" {
		return o, fmt.Errorf("etcd member %s: no data dir", o.Name)
	}
	for _, listen := range []*string{&o.ListenClient, &o.ListenPeer} {
		if *listen == "" {
			free, err := freeURL()
			if err != nil {
				return o, fmt.Errorf("etcd member %s: find a free port: %w", o.Name, err)
			}
			if o.TLS != nil && listen == &o.ListenClient {
				free = "https" + strings.TrimPrefix(free, "http")
			}
			*listen = free
		}
	}
	if o.Tick == 0 {
		o.Tick = 100 * time.Millisecond
	}
	if o.LogFile == "" {
		o.LogFile = filepath.Clean(o.DataDir) + ".log"
	}
	if o.InitialCluster == "" {
		var urls []string
		for u := range strings.SplitSeq(o.ListenPeer, ",") {
			urls = append(urls, o.Name+"="+u)
		}
		o.InitialCluster = strings.Join(urls, ",")
	}
	return o, nil
}

// nowhere in place of URLs is a member that listens to nobody.
const nowhere = "-"

// config is the server's configuration. Nothing comes from the environment.
func (o Options) config() (*embed.Config, error) {
	c := embed.NewConfig()
	c.Name, c.Dir, c.WalDir = o.Name, o.DataDir, o.WALDir
	var err error
	if c.ListenClientUrls, err = parseURLs(o.ListenClient); err != nil {
		return nil, fmt.Errorf("client URLs: %w", err)
	}
	if c.ListenPeerUrls, err = parseURLs(o.ListenPeer); err != nil {
		return nil, fmt.Errorf("peer URLs: %w", err)
	}
	c.AdvertiseClientUrls = c.ListenClientUrls
	if c.AdvertisePeerUrls = c.ListenPeerUrls; o.ListenPeer != nowhere {
		c.InitialCluster = o.InitialCluster
	}
	if o.TLS != nil {
		c.ClientTLSInfo = transport.TLSInfo{CertFile: o.TLS.Cert, KeyFile: o.TLS.Key, TrustedCAFile: o.TLS.CA, ClientCertAuth: true}
	}
	if o.Token != "" {
		c.InitialClusterToken = o.Token
	}
	c.ForceNewCluster = o.ForceNewCluster
	c.TickMs = uint(o.Tick.Milliseconds())
	c.ElectionMs = 10 * c.TickMs
	c.QuotaBackendBytes = o.QuotaBytes
	c.UnsafeNoFsync = o.NoFsync
	if o.Lazy {
		c.CompactionSleepInterval = time.Hour // between the first of its batches and the second
	}
	c.LogOutputs = []string{o.LogFile}
	c.EnableGRPCGateway = true
	return c, nil
}

func parseURLs(list string) ([]url.URL, error) {
	if list == nowhere {
		return []url.URL{}, nil
	}
	var urls []url.URL
	for s := range strings.SplitSeq(list, ",") {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			return nil, err
		}
		urls = append(urls, *u)
	}
	return urls, nil
}

// freeURL names a port that is free now.
func freeURL() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return "http://" + l.Addr().String(), nil
}
