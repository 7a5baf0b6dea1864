package dbfile

import (
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/server/v3/storage/schema"
)

// Pages that are walked ahead come as they do without, up to the first error of either side, and nothing is left running or waiting.
func TestLeavesAhead(t *testing.T) {
	data := sample(t, 5000, false)
	enough := errors.New("enough")
	read := func(most int, how func(*pages, bucket, order, func(page) error) error) (ids []uint64, err error) {
		p, err := openPages(data, new(atomic.Int64))
		if err != nil {
			t.Fatal(err)
		}
		all, err := p.buckets()
		if err != nil {
			t.Fatal(err)
		}
		err = how(p, all[string(schema.Key.Name())], descending, func(g page) error {
			if len(ids) == most {
				return enough
			}
			ids = append(ids, g.id)
			return nil
		})
		return ids, err
	}
	whole, err := read(-1, (*pages).leaves)
	if err != nil || len(whole) < 700 {
		t.Fatalf("%d pages, %v: too few to walk ahead", len(whole), err)
	}
	for _, most := range []int{-1, 0, 1, 63, 64, 65, len(whole) - 1} {
		want, wantErr := read(most, (*pages).leaves)
		got, err := read(most, (*pages).leavesAhead)
		if !slices.Equal(got, want) || !errors.Is(err, wantErr) {
			t.Errorf("until page %d: %d pages, %v; want %d, %v", most, len(got), err, len(want), wantErr)
		}
	}
	// A page near the walk's end that is none: what comes before it is read, and then it is told.
	pageOf := func(id uint64) []byte { return data[int(id)*4096:] }
	native.PutUint64(pageOf(whole[len(whole)-3]), 1<<40)
	want, wantErr := read(-1, (*pages).leaves)
	got, err := read(-1, (*pages).leavesAhead)
	if wantErr == nil || err == nil || err.Error() != wantErr.Error() || !slices.Equal(got, want) {
		t.Errorf("with a damaged page: %d pages, %v; want %d, %v", len(got), err, len(want), wantErr)
	}
	if got, err = read(5, (*pages).leavesAhead); !errors.Is(err, enough) || len(got) != 5 {
		t.Errorf("with a damaged page after what is read: %d pages, %v", len(got), err)
	}
}
