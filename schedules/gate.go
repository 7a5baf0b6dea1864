package schedules

import (
	"context"
	"sync"
)

// Gate keeps runs apart: of one key there is never more than one, and of one class never more than so many at once. Several schedulers
// may share one, such as those of the configurations before and after a reload. It is safe for concurrent use.
type Gate struct {
	atOnce int

	mu      sync.Mutex
	keys    map[string]chan struct{} // closed when the key is free again
	classes map[string]chan struct{}
}

// NewGate lets so many runs of each class through at once, at least one.
func NewGate(atOnce int) *Gate {
	return &Gate{atOnce: max(atOnce, 1), keys: map[string]chan struct{}{}, classes: map[string]chan struct{}{}}
}

// TryHold takes a key if it is free. Every key that was taken must be released.
func (g *Gate) TryHold(key string) (release func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.keys[key] != nil {
		return nil, false
	}
	return g.take(key), true
}

func (g *Gate) take(key string) (release func()) {
	free := make(chan struct{})
	g.keys[key] = free
	return func() {
		g.mu.Lock()
		delete(g.keys, key)
		g.mu.Unlock()
		close(free)
	}
}

// hold waits for a key, until either channel closes.
func (g *Gate) hold(done, stop <-chan struct{}, key string) (release func(), ok bool) {
	for {
		g.mu.Lock()
		free := g.keys[key]
		if free == nil {
			defer g.mu.Unlock()
			return g.take(key), true
		}
		g.mu.Unlock()
		select {
		case <-free:
		case <-done:
			return nil, false
		case <-stop:
			return nil, false
		}
	}
}

// Enter waits for one of the class's places. An error is the context's.
func (g *Gate) Enter(ctx context.Context, class string) (leave func(), err error) {
	leave, ok := g.enter(ctx.Done(), nil, class)
	if !ok {
		return nil, context.Cause(ctx)
	}
	return leave, nil
}

func (g *Gate) enter(done, stop <-chan struct{}, class string) (leave func(), ok bool) {
	g.mu.Lock()
	places := g.classes[class]
	if places == nil {
		places = make(chan struct{}, g.atOnce)
		g.classes[class] = places
	}
	g.mu.Unlock()
	select {
	case places <- struct{}{}:
		return func() { <-places }, true
	case <-done:
	case <-stop:
	}
	return nil, false
}
