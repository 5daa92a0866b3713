package speed

import (
	"runtime"
	"sync/atomic"
	"time"
)

// This file holds the floors that need locked operations. It is the only one of
// the package that imports sync/atomic: the emulator's own words (arch/x86)
// carry schedule points, which a floor must not pay for.

// entries returns the first n parent entries, all of them if there are fewer.
func (f *Floors) entries(n int) []uint64 { return f.parent[:min(n, len(f.parent))] }

// batches calls one for slices of at most all entries until n are done.
func (f *Floors) batches(n int, one func(ptes []uint64)) time.Duration {
	start := time.Now()
	for n > 0 {
		part := f.entries(n)
		one(part)
		n -= len(part)
	}
	return time.Since(start)
}

// ForkPages does for n entries what a fork cannot avoid: one locked clear (the
// parent's write bit), two locked adds (count, mapcount) and two stores (the
// child's entry and its page counter).
func (f *Floors) ForkPages(n int) time.Duration {
	child, rss := f.child, &f.rss
	return f.batches(n, func(ptes []uint64) {
		child := child[:len(ptes)]
		for i := range ptes {
			pte := ptes[i]
			atomic.AndUint64(&ptes[i], ^uint64(pteRW))
			d := f.desc(pte)
			atomic.AddUint32(&d.count, 1)
			atomic.AddUint32(&d.mapcount, 1)
			child[i] = pte &^ pteRW
			*rss++
		}
	})
}

// ExitPages drops n pages that nobody else has: two locked subtractions and the
// link of the free list. The entries themselves go with their tables.
func (f *Floors) ExitPages(n int) time.Duration { return f.drop(n, false) }

// UnmapPages is ExitPages where the tables stay: the entries are cleared as well.
func (f *Floors) UnmapPages(n int) time.Duration { return f.drop(n, true) }

// drop does both. The counters are set before the time starts, in chunks of all
// entries.
func (f *Floors) drop(n int, clearEntry bool) time.Duration {
	var total time.Duration
	for n > 0 {
		part := f.entries(n)
		copy(f.child, part)
		for _, pte := range part {
			d := f.desc(pte)
			d.count, d.mapcount = 1, 1
		}
		if clearEntry {
			total += f.dropEntries(f.child[:len(part)])
		} else {
			total += f.dropPages(f.child[:len(part)])
		}
		n -= len(part)
	}
	return total
}

func (f *Floors) dropPages(ptes []uint64) time.Duration {
	free := uint64(0)
	start := time.Now()
	for _, pte := range ptes {
		d := f.desc(pte)
		atomic.AddUint32(&d.mapcount, ^uint32(0))
		if atomic.AddUint32(&d.count, ^uint32(0)) == 0 {
			d.next, free = free, pte
		}
	}
	t := time.Since(start)
	f.sink += free
	return t
}

func (f *Floors) dropEntries(ptes []uint64) time.Duration {
	free := uint64(0)
	start := time.Now()
	for i, pte := range ptes {
		ptes[i] = 0
		d := f.desc(pte)
		atomic.AddUint32(&d.mapcount, ^uint32(0))
		if atomic.AddUint32(&d.count, ^uint32(0)) == 0 {
			d.next, free = free, pte
		}
	}
	t := time.Since(start)
	f.sink += free
	return t
}

// Protect takes the write bit from n entries: one locked clear each, because the
// hardware may set the dirty bit at the same moment.
func (f *Floors) Protect(n int) time.Duration {
	return f.batches(n, func(ptes []uint64) {
		for i := range ptes {
			if ptes[i]&ptePresent != 0 {
				atomic.AndUint64(&ptes[i], ^uint64(pteRW))
			}
		}
	})
}

// Reuse does what a write fault on a page of one's own cannot avoid: look at the
// entry and the map count, lock and unlock the page, set the entry.
func (f *Floors) Reuse(n int) time.Duration {
	child := f.child
	return f.batches(n, func(ptes []uint64) {
		child := child[:len(ptes)]
		for i, pte := range ptes {
			d := f.desc(pte)
			if atomic.CompareAndSwapUint64(&d.flags, 0, 1) {
				if d.mapcount < 1<<31 {
					child[i] = pte | pteRW
				}
				atomic.AndUint64(&d.flags, 0)
			}
		}
	})
}

// Pin reads n entries, takes a reference on each page and stores its number.
func (f *Floors) Pin(n int) time.Duration {
	pages := f.pages
	return f.batches(n, func(ptes []uint64) {
		pages := pages[:len(ptes)]
		for i, pte := range ptes {
			if pte&ptePresent != 0 {
				atomic.AddUint32(&f.desc(pte).count, 1)
				pages[i] = pte >> 12
			}
		}
	})
}

// flushWord is what one CPU is asked with: a word it looks at and a word it
// answers with, each in a cache line of its own.
type flushWord struct {
	attention uint32 // generation asked for; 0 when none, stopFlush ends the loop
	_         [60]byte
	done      uint32 // generation last served
	_         [60]byte
	local     uint64 // what a flush writes; owned by the served CPU
	_         [56]byte
}

const stopFlush = ^uint32(0)

// yieldEvery is after how many empty looks a waiter lets other goroutines run:
// without it, more CPUs than cores wait for the Go scheduler's 10 ms.
const yieldEvery = 2000

// serve answers flushes until it is stopped, as a CPU does that runs user code.
func (w *flushWord) serve(stopped chan<- struct{}) {
	for idle := 0; ; {
		g := atomic.LoadUint32(&w.attention)
		if g == stopFlush {
			break
		}
		if g != 0 {
			atomic.StoreUint32(&w.attention, 0)
			w.local++
			atomic.StoreUint32(&w.done, g)
			idle = 0
			continue
		}
		if idle++; idle%yieldEvery == 0 {
			runtime.Gosched()
		}
	}
	stopped <- struct{}{}
}

// stop ends the loop of serve.
func (w *flushWord) stop() { atomic.StoreUint32(&w.attention, stopFlush) }

// flush asks all CPUs and waits for all of them.
func flush(words []*flushWord, g uint32) {
	for _, w := range words {
		atomic.StoreUint32(&w.attention, g)
	}
	for _, w := range words {
		for idle := 0; atomic.LoadUint32(&w.done) != g; {
			if idle++; idle%yieldEvery == 0 {
				runtime.Gosched()
			}
		}
	}
}

// Flush does n flushes of cpus-1 remote CPUs, each a goroutine that polls.
func (f *Floors) Flush(n, cpus int) time.Duration {
	words := make([]*flushWord, cpus-1)
	stopped := make(chan struct{})
	for i := range words {
		words[i] = new(flushWord)
		go words[i].serve(stopped)
	}
	const warm = 10
	for g := range uint32(warm) {
		flush(words, g+1)
	}
	start := time.Now()
	for g := range uint32(n) {
		flush(words, warm+g+1)
	}
	d := time.Since(start)
	for _, w := range words {
		w.stop()
	}
	for range words {
		<-stopped
	}
	return d
}

// together runs one goroutine for each of cpus and returns the time from the
// common start to the last end.
func together(cpus int, work func(cpu int)) time.Duration {
	begin, done := make(chan struct{}), make(chan struct{}, cpus)
	for cpu := range cpus {
		go func() {
			<-begin
			work(cpu)
			done <- struct{}{}
		}()
	}
	start := time.Now()
	close(begin)
	for range cpus {
		<-done
	}
	return time.Since(start)
}

// ClearTogether clears n pages by two goroutines, each its own half.
func (f *Floors) ClearTogether(n int) time.Duration {
	half := len(f.order) / 2
	return together(2, func(cpu int) {
		own := f.order[cpu*half : (cpu+1)*half]
		for i := range n / 2 {
			clear(f.frame(own[i%half])[:])
		}
	})
}

// PinTogether takes n references by two goroutines, each on its own half.
func (f *Floors) PinTogether(n int) time.Duration {
	half := len(f.parent) / 2
	return together(2, func(cpu int) {
		ptes := f.parent[cpu*half : (cpu+1)*half]
		pages := f.pages[cpu*half : (cpu+1)*half]
		for left := n / 2; left > 0; {
			part := ptes[:min(left, half)]
			for i, pte := range part {
				if pte&ptePresent != 0 {
					atomic.AddUint32(&f.desc(pte).count, 1)
					pages[i] = pte >> 12
				}
			}
			left -= len(part)
		}
	})
}
