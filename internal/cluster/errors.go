package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// What an [Error] can wrap, for errors.Is.
var (
	// ErrUnreachable: no answer, whatever the reason (connection, TLS, time).
	ErrUnreachable = errors.New("endpoint unreachable")
	// ErrTLS: the two sides do not agree on TLS or do not trust each other. Always with ErrUnreachable.
	ErrTLS = errors.New("tls")
	// ErrAuth: the cluster did not accept who is asking, or what they asked.
	ErrAuth = errors.New("not authorized")
	// ErrNeedsRoot: the user is known but lacks the root role. Always with ErrAuth.
	ErrNeedsRoot = errors.New("the root role is needed")
	// ErrNoLeader: the member answers, but it has no quorum.
	ErrNoLeader = errors.New("no leader")
	// ErrStalled: a snapshot stream stopped delivering bytes.
	ErrStalled = errors.New("the snapshot stream stalled")
	// ErrCompacted: the revision asked for is compacted away.
	ErrCompacted = errors.New("revision compacted")
	// ErrFutureRevision: the member has not reached the revision asked for.
	ErrFutureRevision = errors.New("revision not reached yet")

	errLearner = errors.New("learner")
)

// An Error says what was asked of which endpoint, what came of it, and what to try.
type Error struct {
	Op       string // what was being done: "status", "snapshot", …
	Endpoint string // as configured
	What     string // what was found
	Advice   string // what to try; "" when there is nothing to say
	Err      error  // the sentinels above and the cause, for errors.Is and errors.As
}

func (e *Error) Error() string {
	text := fmt.Sprintf("%s from %s: %s", e.Op, e.Endpoint, e.What)
	if e.Advice != "" {
		text += " (" + e.Advice + ")"
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// authenticateError marks a failure of the Authenticate call itself.
type authenticateError struct{ error }

func (e authenticateError) Unwrap() error { return e.error }

// serverError gives etcd's own error for what a call returned, for errors.Is. Servers before 3.5
// answer maintenance calls with some texts of an inner package.
func serverError(err error) error {
	switch rpctypes.ErrorDesc(err) {
	case "auth: permission denied":
		return rpctypes.ErrPermissionDenied
	case "auth: user name is empty":
		return rpctypes.ErrUserEmpty
	case "auth: invalid auth token":
		return rpctypes.ErrInvalidAuthToken
	case "auth: revision in header is old":
		return rpctypes.ErrAuthOldRevision
	}
	return rpctypes.Error(err)
}

func authOff(err error) bool {
	return err != nil && errors.Is(serverError(err), rpctypes.ErrAuthNotEnabled)
}

func staleToken(err error) bool {
	err = serverError(err)
	return errors.Is(err, rpctypes.ErrInvalidAuthToken) || errors.Is(err, rpctypes.ErrAuthOldRevision) || errors.Is(err, rpctypes.ErrUserEmpty)
}

// explain turns the failure of a call into an [Error]. ctx is the caller's: when it has ended, that
// is the reason and nothing is looked into.
func (c *Client) explain(ctx context.Context, e *endpoint, op string, limit time.Duration, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s from %s: %w", op, e.name, context.Cause(ctx))
	}
	if done := new(Error); errors.As(err, &done) {
		return err
	}
	out := &Error{Op: op, Endpoint: e.name}
	user := c.options.Username
	authenticating := false
	if a := (authenticateError{}); errors.As(err, &a) {
		authenticating, err = true, a.error
	}
	cause := serverError(err)
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(cause, t) {
				return true
			}
		}
		return false
	}
	set := func(what, advice string, sentinels ...error) error {
		out.What, out.Advice, out.Err = what, advice, errors.Join(append(sentinels, cause)...)
		return out
	}
	switch {
	case is(rpctypes.ErrAuthFailed):
		return set(fmt.Sprintf("etcd does not accept user %q with this password", user), "check username and password_file, or try: etcdctl --user "+user+" endpoint status", ErrAuth)
	case is(rpctypes.ErrUserEmpty) && user == "":
		return set("etcd has authentication enabled and no user name is configured", "configure username and password_file of a user with the root role", ErrAuth)
	case is(rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision):
		return set(fmt.Sprintf("etcd does not accept the token it gave user %q: %v", user, rpctypes.ErrorDesc(cause)), "try again; if it lasts, the members disagree about their users", ErrAuth)
	case is(rpctypes.ErrPermissionDenied) && rootOnly(op):
		return set(fmt.Sprintf("user %q lacks the root role, which etcd demands for %s", user, op), "try: etcdctl user grant-role "+orName(user)+" root", ErrNeedsRoot, ErrAuth)
	case is(rpctypes.ErrPermissionDenied):
		return set(fmt.Sprintf("user %q is not permitted to do this", user), "grant it the root role: etcdctl user grant-role "+orName(user)+" root", ErrAuth)
	case rpctypes.ErrorDesc(err) == rpctypes.ErrorDesc(rpctypes.ErrGRPCNotSupportedForLearner):
		return set("this member is a learner, which answers hardly anything", "", errLearner)
	case is(rpctypes.ErrCompacted):
		return set("that revision is compacted away", "", ErrCompacted)
	case is(rpctypes.ErrFutureRev):
		return set("this member has not reached that revision", "", ErrFutureRevision)
	case is(rpctypes.ErrNoLeader, rpctypes.ErrTimeout, rpctypes.ErrTimeoutDueToLeaderFail, rpctypes.ErrTimeoutDueToConnectionLost, rpctypes.ErrLeaderChanged, rpctypes.ErrTimeoutWaitAppliedIndex, rpctypes.ErrUnhealthy):
		what := "the member has no quorum: " + rpctypes.ErrorDesc(cause)
		if authenticating {
			what = "etcd checks passwords only while it has a quorum: " + rpctypes.ErrorDesc(cause)
		}
		return set(what, "look at the other members", ErrNoLeader)
	case is(rpctypes.ErrNoSpace):
		return set("the database has reached its quota (NOSPACE)", "compact and defragment it, then: etcdctl alarm disarm")
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		if d := e.diagnose(ctx); d != nil {
			return set(d.what, d.advice, append(d.sentinels, ErrUnreachable, d.err)...)
		}
		if status.Code(err) == codes.DeadlineExceeded {
			what := fmt.Sprintf("it accepts connections but did not answer within %v", limit)
			advice := "the member may be overloaded, defragmenting or without quorum"
			if authenticating {
				advice = "etcd checks passwords only while it has a quorum: look at the other members"
			}
			return set(what, advice, ErrUnreachable)
		}
		return set("the connection broke: "+status.Convert(err).Message(), "look at the log of this member", ErrUnreachable)
	}
	return set(strings.TrimPrefix(rpctypes.ErrorDesc(cause), "etcdserver: "), "")
}

// rootOnly tells whether etcd lets only the root role do op.
func rootOnly(op string) bool { return op == opSnapshot || op == opHashKV }

func orName(user string) string {
	if user == "" {
		return "NAME"
	}
	return user
}
