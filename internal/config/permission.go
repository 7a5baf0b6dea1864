package config

// Permission says whether something that does harm where it does not belong is allowed, in words that nobody writes by accident.
type Permission bool

// The words of a Permission.
const (
	allowed = "allowed"
	refused = "refused"
)

func (p *Permission) parse(text string, _ *decoder) *fault {
	switch text {
	case allowed, refused:
		*p = text == allowed
		return nil
	}
	return &fault{quote(text) + " is neither " + allowed + " nor " + refused, "write one of them"}
}

func (*Permission) describe() string { return "allowed or refused" }

// String writes it as it is read.
func (p Permission) String() string {
	if p {
		return allowed
	}
	return refused
}
