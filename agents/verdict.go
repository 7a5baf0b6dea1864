package agents

// Words of Verdict.Verdict. Each includes the ones before it, up to NoLoss.
const (
	// Reconnected: every expected program registered anew and keeps its lease.
	Reconnected = "RECONNECTED"
	// Converged: they agree with each other as well.
	Converged = "CONVERGED"
	// NoLoss: and they are at least as far as the gate's baseline.
	NoLoss = "NO LOSS DETECTED"
	// DataLossSuspected: they agree, but on less than the baseline.
	DataLossSuspected = "DATA LOSS SUSPECTED"
	// Unknown: nothing was expected or nobody could be asked.
	Unknown = "UNKNOWN"
	// NotBack: something expected was not there at the deadline; the checks
	// name it.
	NotBack = "NOT BACK"
)

// Verdict is what Verify found about one agent.
type Verdict struct {
	Name    string  `json:"name"`    // Configured.Name
	Verdict string  `json:"verdict"` // "" when there was nothing to prove at all
	OK      bool    `json:"ok"`      // false fails the restore with exit code 15
	Checks  []Check `json:"checks"`
	// Unfinished says what was begun for this agent and waits for something:
	// whoever restores goes on with it later. "" for nothing.
	Unfinished string `json:"unfinished,omitempty"`
}

// Check is one piece of evidence.
type Check struct {
	Name    string  `json:"name"`
	OK      bool    `json:"ok"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"` // since etcd was healthy, when it was first true; 0 while it is not
}
