package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// A Metric is one family as docs/metrics.md describes it.
type Metric struct {
	Group  string // heading in the reference
	Name   string
	Type   string // gauge, counter, histogram
	Labels []string
	Help   string
}

// definitions are all families. Those of the Go runtime and of the process come besides.
type definitions struct {
	all   []Metric
	group string

	build, clusters, reloadOK, reloadAt, notifications *prometheus.Desc

	lastTime, lastStored, lastDatabase, lastKeys, held, bad, stage, reachable *prometheus.Desc
	verified, drilled, drillRPO, drillRTO, objective                          *prometheus.Desc

	runs, failures, success, duration, active, failing, next, retention *prometheus.Desc

	role, hold *prometheus.Desc

	observed, voters, healthy, margin, leader, changes, alarm, revision, term, ownCertificate, problem *prometheus.Desc
	memberHealthy, memberBytes, memberUsed, memberQuota, memberLag, memberSkew, memberCertificate      *prometheus.Desc

	operations, bytes *prometheus.CounterVec
	seconds           *prometheus.HistogramVec
}

func (d *definitions) add(kind, name, help string, labels []string) *prometheus.Desc {
	d.all = append(d.all, Metric{d.group, name, kind, labels, help})
	return prometheus.NewDesc(name, help, labels, nil)
}

func (d *definitions) gauge(name, help string, labels ...string) *prometheus.Desc {
	return d.add("gauge", name, help, labels)
}

func (d *definitions) counter(name, help string, labels ...string) *prometheus.Desc {
	return d.add("counter", name, help, labels)
}

func define() *definitions {
	d := &definitions{}
	d.group = "The service"
	d.build = d.gauge("requorum_build_info", "Always 1; the labels say what runs.", "version", "commit", "go_version")
	d.clusters = d.gauge("requorum_clusters", "Clusters in the configuration.")
	d.reloadOK = d.gauge("requorum_config_reload_success", "Whether the configuration that was read last is the one in use: 1, or 0 when it was refused.")
	d.reloadAt = d.gauge("requorum_config_last_reload_timestamp_seconds", "When the configuration was last read with success.")
	d.notifications = d.counter("requorum_notifications_total", "Notifications by kind of receiver (webhook, slack, email, heartbeat) and outcome (ok, failed).", "receiver", "outcome")

	d.group = "Backups"
	d.lastTime = d.gauge("requorum_backup_last_timestamp_seconds", "The moment that the newest proven backup shows; a backup that failed its verification does not count. Absent without one.", "cluster")
	d.lastStored = d.gauge("requorum_backup_last_stored_bytes", "What that backup takes in one store, compressed and encrypted.", "cluster")
	d.lastDatabase = d.gauge("requorum_backup_last_database_bytes", "Size of the database in the last backup that this replica took.", "cluster")
	d.lastKeys = d.gauge("requorum_backup_last_keys", "Live keys in the last backup that this replica took.", "cluster")
	d.stage = d.gauge("requorum_backup_stage_duration_seconds", "Duration of each stage of that backup; stages overlap.", "cluster", "stage")
	d.held = d.gauge("requorum_backups", "Backups in a store.", "cluster", "store")
	d.bad = d.gauge("requorum_backups_failed_verification", "Backups whose newest verdict is failed.", "cluster")
	d.reachable = d.gauge("requorum_store_reachable", "Whether the backups in a store could be listed the last time.", "cluster", "store")
	d.verified = d.gauge("requorum_verification_last_timestamp_seconds", "When a backup was last verified with success. Absent if none was.", "cluster")
	d.drilled = d.gauge("requorum_drill_last_timestamp_seconds", "When a restore was last rehearsed with success. Absent if none was.", "cluster")
	d.drillRPO = d.gauge("requorum_drill_last_rpo_seconds", "The RPO that this drill measured.", "cluster")
	d.drillRTO = d.gauge("requorum_drill_last_rto_seconds", "The RTO that this drill measured.", "cluster")
	d.objective = d.gauge("requorum_objective_seconds", "What is asked for: rpo, rto, drill_age. Absent if it is not.", "cluster", "objective")

	d.group = "Runs"
	d.runs = d.counter("requorum_runs_total", "Runs that ended, by kind (snapshot, expire, copy, verify, drill) and outcome (ok, partly, failed, skipped, stopped).", "cluster", "kind", "outcome")
	d.failures = d.counter("requorum_run_failures_total", "Runs that were not ok, by reason, of a closed set: the words are in the log and in the record.", "cluster", "kind", "reason")
	d.failing = d.gauge("requorum_run_failing", "Whether the last run of the kind failed: 1 until one is ok or partly done.", "cluster", "kind")
	d.success = d.gauge("requorum_run_last_success_timestamp_seconds", "When a run of the kind last ended ok or partly done.", "cluster", "kind")
	d.duration = d.gauge("requorum_run_last_duration_seconds", "How long the last run of the kind took.", "cluster", "kind")
	d.active = d.gauge("requorum_runs_in_progress", "Runs under way.", "cluster", "kind")
	d.next = d.gauge("requorum_run_next_timestamp_seconds", "When the next run of the kind is due, jitter included. Absent on a replica that does not lead.", "cluster", "kind")
	d.retention = d.gauge("requorum_retention_backups", "What the last expiry did in a store, by result: kept, deleted, locked, failed.", "cluster", "store", "result")

	d.group = "Replicas"
	d.role = d.gauge("requorum_election_role", "1 for the role of this replica, 0 for the others: leader, follower, orphan (the coordination etcd is gone).", "cluster", "role")
	d.hold = d.gauge("requorum_restore_hold", "Whether a restore is under way: nothing is expired and no scheduled backup is taken.", "cluster")

	d.group = "Clusters"
	d.observed = d.gauge("requorum_cluster_observed_timestamp_seconds", "When the cluster was last observed, whatever was found.", "cluster")
	d.voters = d.gauge("requorum_cluster_voters", "Voting members.", "cluster")
	d.healthy = d.gauge("requorum_cluster_healthy_voters", "Voting members that answered a linearizable read.", "cluster")
	d.margin = d.gauge("requorum_cluster_quorum_margin", "How many more voting members may fail; negative when the cluster has stopped. Absent when not every member is an endpoint.", "cluster")
	d.leader = d.gauge("requorum_cluster_has_leader", "Whether a member that answered knows a leader.", "cluster")
	d.changes = d.counter("requorum_cluster_leader_changes_total", "Changes of the leader between observations.", "cluster")
	d.alarm = d.gauge("requorum_cluster_alarm", "Whether an alarm of the type is raised: NOSPACE, CORRUPT.", "cluster", "type")
	d.revision = d.gauge("requorum_cluster_revision", "The highest revision that any member has. Absent when none answered.", "cluster")
	d.term = d.gauge("requorum_cluster_raft_term", "The highest raft term. Absent when no member answered.", "cluster")
	d.ownCertificate = d.gauge("requorum_client_certificate_expiry_timestamp_seconds", "When the certificate expires that requorum presents to the cluster.", "cluster")
	d.problem = d.gauge("requorum_problem", "1 while a problem stands, by its name and severity (warning, critical, unknown); the same that check and notifications tell.", "cluster", "name", "severity")

	d.group = "Members"
	d.memberHealthy = d.gauge("requorum_member_healthy", "Whether the member behind an endpoint answered a linearizable read; learners need not.", "cluster", "endpoint")
	d.memberBytes = d.gauge("requorum_member_database_bytes", "Size of its database file.", "cluster", "endpoint")
	d.memberUsed = d.gauge("requorum_member_database_in_use_bytes", "What of it is in use; the rest is fragmentation.", "cluster", "endpoint")
	d.memberQuota = d.gauge("requorum_member_database_quota_bytes", "Its quota. Absent before etcd 3.6 unless configured.", "cluster", "endpoint")
	d.memberLag = d.gauge("requorum_member_lag_entries", "Committed raft entries that it has not applied.", "cluster", "endpoint")
	d.memberSkew = d.gauge("requorum_member_clock_skew_seconds", "How far its clock is ahead of this machine's, at least; negative: behind. Absent when it cannot be seen.", "cluster", "endpoint")
	d.memberCertificate = d.gauge("requorum_member_certificate_expiry_timestamp_seconds", "When the first of the certificates that it presents expires. Absent without TLS.", "cluster", "endpoint")

	d.group = "Stores"
	d.operations = d.counterVec("requorum_store_operations_total", "Operations (put, get, list, delete, confirm) on a store by outcome: ok, missing, exists, locked, denied, full, unreachable, cancelled, other.", "store", "operation", "outcome")
	d.bytes = d.counterVec("requorum_store_bytes_total", "Bytes by direction: read, written.", "store", "direction")
	const name, help = "requorum_store_operation_duration_seconds", "How long operations took, reading included."
	labels := []string{"store", "operation"}
	d.add("histogram", name, help, labels)
	d.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: []float64{.01, .05, .25, 1, 5, 30, 120, 600}}, labels)
	return d
}

func (d *definitions) counterVec(name, help string, labels ...string) *prometheus.CounterVec {
	d.add("counter", name, help, labels)
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

// All are the families that requorum itself exposes, in the order of the reference.
func All() []Metric { return define().all }
