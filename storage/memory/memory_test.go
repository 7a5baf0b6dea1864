package memory_test

import (
	"testing"

	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/storagetest"
)

func TestStore(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Store { return memory.New(nil) })
}
