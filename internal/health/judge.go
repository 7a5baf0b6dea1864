package health

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/requorum/requorum/internal/cluster"
)

// slack is how far a value must fall below its threshold before a problem that stands is over.
const slack = 0.9

// Judge makes problems of one observation by itself. name is the cluster's, for commands to try.
func Judge(name string, o Observation, t Thresholds) []Problem {
	return judge(name, o, t, func(string, string) Severity { return "" })
}

// judge does it; stands is the severity that a problem already has, so that a value near its threshold does not make it come and go.
func judge(name string, o Observation, t Thresholds, stands func(name, subject string) Severity) []Problem {
	j := &judgement{name: name, Observation: o, t: t, stands: stands}
	j.members()
	j.quorum()
	j.alarms()
	j.database()
	for _, m := range o.Members {
		j.member(m)
	}
	j.certificate("the client certificate", "", o.ClientCertificate)
	return j.problems
}

type judgement struct {
	Observation
	name     string
	t        Thresholds
	stands   func(name, subject string) Severity
	problems []Problem
}

func (j *judgement) add(severity Severity, name, subject, what, advice string) {
	j.problems = append(j.problems, Problem{Severity: severity, Name: name, Subject: subject, What: what, Advice: advice})
}

// above says whether a value has reached its threshold; one that stands at least with this severity must fall well below it.
func (j *judgement) above(value, limit float64, severity Severity, name, subject string) bool {
	if limit <= 0 {
		return false
	}
	if j.stands(name, subject).Rank() >= severity.Rank() {
		limit *= slack
	}
	return value >= limit
}

func (j *judgement) members() {
	for _, m := range j.Members {
		if m.err != nil {
			p := Failure(Warning, MemberDown, "member "+m.Name, m.err)
			p.Subject = m.Endpoint
			j.problems = append(j.problems, p)
		}
	}
	if len(j.ClusterIDs) > 1 {
		j.add(Critical, Mixed, "", fmt.Sprintf("the endpoints belong to %d different clusters: %s", len(j.ClusterIDs), strings.Join(j.ClusterIDs, ", ")),
			"correct endpoints in the configuration")
	}
	if j.Unasked > 0 && j.Answered() {
		j.add(Warning, Unasked, "", fmt.Sprintf("%d of %d voting members are none of the endpoints, so it is not known whether they run", j.Unasked, j.Voters),
			"name every member's client URL in endpoints")
	}
}

// denied says that no member lets us in while every one answers: nothing is known of the cluster then.
func (j *judgement) denied() bool {
	return len(j.Members) > 0 && !slices.ContainsFunc(j.Members, func(m Member) bool {
		return m.err == nil || !errors.Is(m.err, cluster.ErrAuth)
	})
}

func (j *judgement) quorum() {
	margin, known := j.Margin()
	switch {
	case j.denied():
		j.add(Unknown, Access, "", "no member lets us in, so the cluster cannot be judged", "check username and password_file in the configuration")
	case j.Healthy == 0:
		j.add(Critical, Quorum, "", "no member is healthy: the cluster is down or has lost its quorum", "requorum restore "+j.name+" --plan")
	case margin < 0:
		j.add(Critical, Quorum, "", fmt.Sprintf("%d of %d voting members are healthy", j.Healthy, j.Voters), "bring the others back before one more fails")
	case known && margin < j.t.Margin && j.Voters >= 3:
		what := "no more may fail"
		if margin > 0 {
			what = fmt.Sprintf("%d more may fail", margin)
		}
		j.add(Warning, Quorum, "", fmt.Sprintf("%d of %d voting members are healthy: %s", j.Healthy, j.Voters, what), "start the others before one more fails; one whose disk is lost is replaced while the cluster serves: requorum replace-member "+j.name+" MEMBER")
	}
}

func (j *judgement) alarms() {
	for _, a := range j.Alarms {
		what := "alarm " + a.Type + " is raised"
		if a.Member != "" {
			what += " by " + a.Member
		}
		switch a.Type {
		case cluster.AlarmNoSpace:
			j.add(Critical, NoSpace, a.Member, what+": the cluster takes no writes", "compact and defragment, then: etcdctl alarm disarm")
		case cluster.AlarmCorrupt:
			j.add(Critical, Corrupt, a.Member, what+": members hold different data", "see docs/alerts.md before anything is disarmed")
		}
	}
}

// database judges the fullest member, since the first that is full stops the cluster, and the most fragmented one.
func (j *judgement) database() {
	var fullest, loosest Member
	var full, loose float64
	for _, m := range j.Members {
		quota := m.QuotaBytes
		if quota == 0 {
			quota = j.t.Quota
		}
		if share := float64(m.DBBytes) / float64(max(quota, 1)); quota > 0 && m.Answered && share > full {
			full, fullest = share, m
		}
		if m.Answered && m.DBBytes >= fragmentedFrom {
			if share := 1 - float64(m.InUseBytes)/float64(m.DBBytes); share > loose {
				loose, loosest = share, m
			}
		}
	}
	what := fmt.Sprintf("the database of %s has reached %.0f %% of its quota", fullest.Name, 100*full)
	const advice = "compact and defragment, find out what grows, or raise --quota-backend-bytes; at 100 % the cluster takes no writes"
	switch {
	case j.above(full, j.t.DatabaseCritical, Critical, Database, ""):
		j.add(Critical, Database, "", what, advice)
	case j.above(full, j.t.DatabaseWarning, Warning, Database, ""):
		j.add(Warning, Database, "", what, advice)
	}
	if j.above(loose, j.t.Fragmentation, Warning, Fragmentation, "") {
		j.add(Warning, Fragmentation, "", fmt.Sprintf("%.0f %% of the database file of %s is not in use", 100*loose, loosest.Name),
			"defragment one member after the other, the leader last: etcdctl defrag --endpoints URL")
	}
}

func (j *judgement) member(m Member) {
	if m.Answered && !m.Learner && j.above(float64(m.Lag), float64(j.t.Lag), Warning, Lag, m.Endpoint) {
		j.add(Warning, Lag, m.Endpoint, fmt.Sprintf("member %s is %d raft entries behind", m.Name, m.Lag), "look at its disk and its network")
	}
	if m.SkewSeconds != nil {
		seconds, word := *m.SkewSeconds, "ahead of"
		if seconds < 0 {
			seconds, word = -seconds, "behind"
		}
		if j.above(seconds, j.t.ClockSkew.Seconds(), Warning, Clock, m.Endpoint) {
			j.add(Warning, Clock, m.Endpoint, fmt.Sprintf("the clock of %s is at least %.1f s %s this machine's", m.Name, seconds, word), "check time synchronization on both")
		}
	}
	j.certificate("the certificate of "+m.Name, m.Endpoint, m.Certificate)
}

func (j *judgement) certificate(whose, subject string, ends time.Time) {
	if ends.IsZero() {
		return
	}
	left := ends.Sub(j.Time)
	severity := Severity("")
	switch {
	case j.t.CertificateCritical > 0 && left <= j.t.CertificateCritical:
		severity = Critical
	case j.t.CertificateWarning > 0 && left <= j.t.CertificateWarning:
		severity = Warning
	default:
		return
	}
	word := "expires"
	if left <= 0 {
		word = "expired"
	}
	j.add(severity, Certificate, subject, fmt.Sprintf("%s %s on %s", whose, word, ends.UTC().Format(time.RFC3339)), "renew it")
}

func hexID(id uint64) string { return fmt.Sprintf("%016x", id) }
