package sched

import (
	"iter"
	"sync"
)

// coro is a pooled coroutine: it runs one function after another, and between
// functions waits in the pool.
type coro struct {
	next  func() (struct{}, bool)
	stop  func()
	yield func(struct{}) bool
	fn    func()
	// goexited is set when fn ended by runtime.Goexit; such a coroutine cannot be re-used.
	goexited bool
}

func newCoro() *coro {
	co := &coro{}
	co.next, co.stop = iter.Pull(func(yield func(struct{}) bool) {
		co.yield = yield
		for {
			fn := co.fn
			co.fn = nil
			fn()
			if !yield(struct{}{}) {
				return
			}
		}
	})
	return co
}

// resume runs the coroutine until it yields or its function ends.
func (co *coro) resume() { co.next() }

// Host owns what machines share and hand on: coroutines. Memory is pooled by
// x86.Host. The zero value is ready to use.
type Host struct {
	mu   sync.Mutex
	free []*coro // protected by mu
	cpus []*cpu  // of machines that have been shut down; protected by mu
}

// maxPooledCoros bounds the coroutines kept for re-use.
const maxPooledCoros = 4096

// maxPooledCPUs bounds the processors kept for re-use; each has a TLB of some 40 KiB.
const maxPooledCPUs = 256

// getCPU returns a processor as new.
func (h *Host) getCPU() *cpu {
	h.mu.Lock()
	if n := len(h.cpus); n > 0 {
		c := h.cpus[n-1]
		h.cpus = h.cpus[:n-1]
		h.mu.Unlock()
		*c = cpu{}
		return c
	}
	h.mu.Unlock()
	return &cpu{}
}

func (h *Host) putCPUs(cpus []*cpu) {
	h.mu.Lock()
	if len(h.cpus)+len(cpus) <= maxPooledCPUs {
		h.cpus = append(h.cpus, cpus...)
	}
	h.mu.Unlock()
}

func (h *Host) getCoro() *coro {
	h.mu.Lock()
	if n := len(h.free); n > 0 {
		co := h.free[n-1]
		h.free = h.free[:n-1]
		h.mu.Unlock()
		return co
	}
	h.mu.Unlock()
	return newCoro()
}

func (h *Host) putCoro(co *coro) {
	if co.goexited {
		return
	}
	h.mu.Lock()
	if len(h.free) < maxPooledCoros {
		h.free = append(h.free, co)
		co = nil
	}
	h.mu.Unlock()
	if co != nil {
		co.stop()
	}
}

// Close ends the pooled coroutines. Machines must have been shut down.
func (h *Host) Close() {
	h.mu.Lock()
	free := h.free
	h.free = nil
	h.mu.Unlock()
	for _, co := range free {
		co.stop()
	}
}
