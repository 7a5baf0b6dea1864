package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"reflect"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/requorum/requorum/drills"
	"github.com/requorum/requorum/internal/config"
	"github.com/requorum/requorum/internal/service"
	"github.com/requorum/requorum/schedules"
)

type serveFlags struct {
	listen    string
	logFormat string
}

func newServeCommand(a *app) *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Scheduler, watching, metrics, JSON API, a page for people",
		Long: `Runs what the schedules of all clusters say, watches the clusters, and serves metrics, a JSON API and, at /, a page
for people, until SIGTERM. Then running work may end within serve.grace, or is undone, and the exit code is 0.

SIGHUP reads the configuration again: a valid one is applied without stopping what runs, an invalid one is refused with an
alert, and the old one stays. Several replicas share the clusters when election is configured.`,
		Args: maxArgs(0),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), f) },
	}
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", "", "`ADDR` for metrics and the API (default serve.listen of the configuration)")
	flags.StringVar(&f.logFormat, "log-format", "text", "`FORMAT` of the log on stderr: text or json")
	return cmd
}

// serveLog is the log of serve: what happens is said without being asked for.
func (a *app) serveLog(format string) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: slog.LevelInfo}
	switch {
	case a.quiet:
		o.Level = slog.LevelWarn
	case a.verbose:
		o.Level = slog.LevelDebug
	}
	switch format {
	case "text":
		return slog.New(slog.NewTextHandler(a.err, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(a.err, o)), nil
	}
	return nil, usage("--log-format %s: the format is text or json", format)
}

// loadServe reads the configuration as the flags change it.
func (a *app) loadServe(f serveFlags) (*config.Config, error) {
	cfg, err := a.load()
	if err != nil {
		return nil, err
	}
	for _, w := range cfg.Warnings {
		a.logger.Warn(w.Error())
	}
	if f.listen == "" {
		return cfg, nil
	}
	if err := cfg.Serve.Guard(f.listen); err != nil {
		return nil, usage("--listen %v", err)
	}
	cfg.Serve.Listen = f.listen
	return cfg, nil
}

func (a *app) serve(ctx context.Context, f serveFlags) error {
	log, err := a.serveLog(f.logFormat)
	if err != nil {
		return err
	}
	a.logger = log
	cfg, err := a.loadServe(f)
	if err != nil {
		return err
	}
	tell, err := newTelling(a, cfg)
	if err != nil {
		return err
	}
	clusters, err := a.served(ctx, cfg, tell)
	if err != nil {
		return err
	}
	drills.Sweep(ctx, string(cfg.SpoolDir), log)
	elector, err := a.elector(cfg.Election)
	if err != nil {
		return err
	}
	svc := service.New(service.Options{
		Elector: elector, AtOnce: cfg.Serve.RunsAtOnce, Grace: time.Duration(cfg.Serve.Grace), Classify: classify,
		Host: hostname(), Version: version, Events: tell, Log: log,
	})
	stopHTTP, err := a.listen(ctx, svc, cfg.Serve, tell)
	if err != nil {
		return err
	}
	defer stopHTTP()
	telling, silence := context.WithCancel(context.WithoutCancel(ctx))
	defer silence()
	told := make(chan struct{})
	go func() {
		defer close(told)
		tell.run(telling)
	}()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		svc.Run(ctx, clusters)
	}()
	log.Info("serving", "clusters", len(clusters), "version", version, "configuration", cfg.File)
	a.steer(ctx, svc, f, cfg, tell)
	<-ended
	silence()
	<-told
	log.Info("stopped")
	return nil
}

// steer answers signals and systemd until ctx ends.
func (a *app) steer(ctx context.Context, svc *service.Service, f serveFlags, cfg *config.Config, tell *telling) {
	manager := systemd{log: a.log()}
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	var watchdog <-chan time.Time
	if every := manager.watchdog(); every > 0 {
		tick := time.NewTicker(every / 3)
		defer tick.Stop()
		watchdog = tick.C
	}
	select {
	case <-svc.Begun():
		manager.ready()
	case <-ctx.Done():
	}
	for {
		select {
		case <-ctx.Done():
			manager.stopping()
			return
		case <-watchdog:
			if err := svc.Alive(); err != nil {
				a.log().Error("the watchdog is not told that all is well", "error", err)
				continue
			}
			manager.alive()
		case <-hup:
			manager.reloading()
			a.reload(ctx, svc, f, cfg, tell)
			manager.ready()
		}
	}
}

// reload reads the configuration again. running is the one that serve began with.
func (a *app) reload(ctx context.Context, svc *service.Service, f serveFlags, running *config.Config, tell *telling) {
	cfg, err := a.loadServe(f)
	var clusters []service.Cluster
	var heard listeners
	if err == nil {
		heard, err = listening(cfg, tell.listeners)
	}
	if err == nil {
		clusters, err = a.served(ctx, cfg, tell)
	}
	tell.reloaded(err == nil)
	if err != nil {
		svc.Raise("reload", service.Problem{Name: service.ReloadRefused, Severity: service.Critical, What: "the changed configuration is refused, the one before stays: " + err.Error(),
			Advice: "correct it, try it with requorum config check, and reload again"})
		return
	}
	svc.Clear("reload")
	before := running.Serve
	before.Watch, before.RunsAtOnce, before.Grace = cfg.Serve.Watch, cfg.Serve.RunsAtOnce, cfg.Serve.Grace // hold at once
	if !reflect.DeepEqual(cfg.Serve, before) || !reflect.DeepEqual(cfg.Election, running.Election) {
		svc.Raise("restart", service.Problem{Name: service.RestartNeeded, Severity: service.Warning, What: "election, or where and how serve listens, has changed in the configuration: that holds from the next start on",
			Advice: "restart serve when it suits"})
	} else {
		svc.Clear("restart")
	}
	svc.Limit(cfg.Serve.RunsAtOnce, time.Duration(cfg.Serve.Grace))
	tell.listen(heard)
	tell.configure(cfg)
	svc.Apply(clusters)
	a.log().Info("the configuration is reloaded", "clusters", len(clusters))
}

// listen opens the listener, so that an address that is taken ends serve at once, and serves on it. stop ends that.
func (a *app) listen(ctx context.Context, svc *service.Service, s config.Serve, tell *telling) (stop func(), err error) {
	secure, err := s.TLSConfig(time.Now)
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics and the API: %w; --listen or serve.listen names another address", err)
	}
	a.log().Info("listening", "address", l.Addr().String(), "tls", secure != nil)
	if secure != nil {
		secure.NextProtos = []string{"h2", "http/1.1"}
		l = tls.NewListener(l, secure)
	}
	server := service.NewServer(service.API{Service: svc, Metrics: tell.handler(), Token: s.Bearer()}.Handler())
	server.ErrorLog = slog.NewLogLogger(a.log().Handler(), slog.LevelDebug)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.log().Error("metrics and the API are not served any more", "error", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			_ = server.Close()
		}
		<-done
	}, nil
}

// elector shares the clusters with other replicas; nil when this is the only one.
func (a *app) elector(e *config.Election) (service.Elector, error) {
	if e == nil {
		return nil, nil
	}
	var endpoints []string
	for _, u := range e.Endpoints {
		endpoints = append(endpoints, string(u))
	}
	lease := time.Duration(e.Lease)
	return schedules.NewElector(schedules.ElectorOptions{
		Prefix: e.Prefix, ID: fmt.Sprintf("%s/%d", hostname(), os.Getpid()), Lease: lease, Log: a.log(),
		Connect: func(context.Context) (*clientv3.Client, error) {
			secure, err := e.TLSConfig(time.Now)
			if err != nil {
				return nil, err
			}
			username, password, err := e.Credentials()
			if err != nil {
				return nil, err
			}
			return clientv3.New(clientv3.Config{Endpoints: endpoints, TLS: secure, Username: username, Password: password.Reveal(),
				DialTimeout: lease / 2, DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second, Logger: zap.NewNop()})
		},
	}), nil
}
