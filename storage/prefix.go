package storage

import (
	"context"
	"io"
	"iter"
	"strings"
	"time"
)

// Prefix returns the part of s below prefix, a key without a slash at its end ("backups/etcd"): every key is
// shown without prefix and its slash. An empty prefix is s itself. Errors name the whole key.
func Prefix(s Store, prefix string) Store {
	if prefix == "" {
		return s
	}
	return &prefixed{s, prefix + "/"}
}

type prefixed struct {
	inner Store
	head  string
}

func (p *prefixed) Put(ctx context.Context, key string, r io.Reader) (Object, error) {
	o, err := p.inner.Put(ctx, p.head+key, r)
	o.Key = strings.TrimPrefix(o.Key, p.head)
	return o, err
}

func (p *prefixed) Get(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	return p.inner.Get(ctx, p.head+key, offset)
}

func (p *prefixed) List(ctx context.Context, prefix, after string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		for o, err := range p.inner.List(ctx, p.head+prefix, p.head+after) {
			o.Key = strings.TrimPrefix(o.Key, p.head)
			if !yield(o, err) {
				return
			}
		}
	}
}

func (p *prefixed) Delete(ctx context.Context, key string) error {
	return p.inner.Delete(ctx, p.head+key)
}

func (p *prefixed) Confirm(ctx context.Context, key string, want Want) (string, error) {
	return Confirm(ctx, p.inner, p.head+key, want)
}

func (p *prefixed) Unfinished(ctx context.Context, prefix string) iter.Seq2[Unfinished, error] {
	return func(yield func(Unfinished, error) bool) {
		for u, err := range AsSweeper(p.inner).Unfinished(ctx, p.head+prefix) {
			u.Key = strings.TrimPrefix(u.Key, p.head)
			if !yield(u, err) {
				return
			}
		}
	}
}

func (p *prefixed) Abort(ctx context.Context, u Unfinished) error {
	u.Key = p.head + u.Key
	return AsSweeper(p.inner).Abort(ctx, u)
}

func (p *prefixed) Now(ctx context.Context) (time.Time, error) {
	return AsSweeper(p.inner).Now(ctx)
}
