package agents_test

import (
	"github.com/requorum/requorum/agents"
	"github.com/requorum/requorum/internal/cluster"
	"github.com/requorum/requorum/internal/dbfile"
)

// What cmd hands over fits.
var (
	_ agents.Reader = (*dbfile.Index)(nil)
	_ agents.Live   = (*cluster.Client)(nil)
	_               = dbfile.Select(agents.Select{})
)
