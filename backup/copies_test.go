package backup_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/requorum/requorum/backup"
	"github.com/requorum/requorum/storage"
	"github.com/requorum/requorum/storage/catalog"
	"github.com/requorum/requorum/storage/memory"
	"github.com/requorum/requorum/storage/repository"
	"github.com/requorum/requorum/storage/storagetest"
)

// holders are the ids of the backups that a store holds.
func holders(t *testing.T, repo *repository.Repository, store string) (ids []string) {
	t.Helper()
	snaps, _ := repo.Snapshots(t.Context())
	for _, s := range snaps {
		if slices.Contains(s.Stores, store) {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// A store that was away gets what retention keeps, and nothing that it would delete again or that is damaged.
func TestMakeUpCopies(t *testing.T) {
	first, second := memory.New(nil), memory.New(nil)
	s := newShelf(t, 5, first)
	if snaps, err := s.repo.Snapshots(t.Context()); err != nil {
		t.Fatal(err)
	} else if err := s.repo.Mark(t.Context(), snaps[3], false); err != nil { // the last but one is damaged
		t.Fatal(err)
	}
	s.stores = append(s.stores, repository.Named{Name: "offsite", Store: storagetest.Refused(second, storage.ErrUnreachable)})
	policy := catalog.Policy{Last: 3, Minimum: 1}
	copied, err := backup.MakeUp(t.Context(), policy, s.open(t), s.now, nil)
	if copied != 0 || !errors.Is(err, storage.ErrUnreachable) || !errors.Is(err, backup.ErrPartial) {
		t.Errorf("the store is away: %d copies, %v", copied, err)
	}
	s.stores[1].Store = second
	repo := s.open(t)
	if copied, err = backup.MakeUp(t.Context(), policy, repo, s.now, nil); copied != 3 || err != nil {
		t.Errorf("the store is back: %d copies, %v", copied, err)
	}
	if got, want := holders(t, repo, "offsite"), []string{s.ids[1], s.ids[2], s.ids[4]}; !slices.Equal(got, want) {
		t.Errorf("the store holds %v, want %v: the three that the policy keeps", got, want)
	}
	if copied, err = backup.MakeUp(t.Context(), policy, repo, s.now, nil); copied != 0 || err != nil {
		t.Errorf("once more: %d copies, %v", copied, err)
	}
}
