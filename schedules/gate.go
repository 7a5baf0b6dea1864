package schedules

import (
	"context"
	"slices"
	"sync"
)

// Gate keeps runs apart: of one key there is never more than one, and of one class never more than so many at once. Several schedulers
// may share one, such as those of the configurations before and after a reload. It is safe for concurrent use.
type Gate struct {
	mu      sync.Mutex
	atOnce  int
	keys    map[string]chan struct{} // closed when the key is free again
	classes map[string]*class
}

// class is who is inside, and who waits for a place, the first in front.
type class struct {
	inside  int
	waiting []chan struct{} // closed when there is a place
}

// NewGate lets so many runs of each class through at once, at least one.
func NewGate(atOnce int) *Gate {
	return &Gate{atOnce: max(atOnce, 1), keys: map[string]chan struct{}{}, classes: map[string]*class{}}
}

// Limit changes how many runs of each class are let through at once, at least one. Who is inside stays.
func (g *Gate) Limit(atOnce int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.atOnce = max(atOnce, 1)
	for _, c := range g.classes {
		g.admit(c)
	}
}

// admit lets in who waits as long as there are places.
func (g *Gate) admit(c *class) {
	for c.inside < g.atOnce && len(c.waiting) > 0 {
		close(c.waiting[0])
		c.waiting = c.waiting[1:]
		c.inside++
	}
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

func (g *Gate) enter(done, stop <-chan struct{}, name string) (leave func(), ok bool) {
	g.mu.Lock()
	c := g.classes[name]
	if c == nil {
		c = &class{}
		g.classes[name] = c
	}
	place := make(chan struct{})
	c.waiting = append(c.waiting, place)
	g.admit(c)
	g.mu.Unlock()
	leave = func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		c.inside--
		g.admit(c)
	}
	select {
	case <-place:
		return leave, true
	case <-done:
	case <-stop:
	}
	g.mu.Lock()
	i := slices.Index(c.waiting, place)
	if i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
	g.mu.Unlock()
	if i < 0 { // a place came at that very moment
		leave()
	}
	return nil, false
}
