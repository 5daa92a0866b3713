package blk

import "github.com/cowlab/cowlab/arch/x86"

// Fault makes sectors fail. A bio that touches one of them ends with EIO; what
// comes before the bad sector has been transferred, what comes after it has not.
type Fault struct {
	// First and Last bound the sectors, in units of 512 bytes, Last included.
	First, Last uint64
	// Reads and Writes say which transfers fail.
	Reads, Writes bool
	// Skip is how many transfers that touch the sectors pass before one fails.
	Skip int
	// Count is how many transfers fail; zero means all.
	Count int
}

// Injector is a device's list of faults. The zero value has none. Add and Clear
// may be called at any time.
type Injector struct {
	lock   x86.RawSpin
	n      x86.Word32 // len(faults); written with lock, read without
	faults []fault    // protected by lock
	failed int        // protected by lock
}

type fault struct {
	Fault
	seen, hits int
}

// Add adds a fault. The first in the list that applies counts.
func (i *Injector) Add(f Fault) {
	i.lock.Lock()
	i.faults = append(i.faults, fault{Fault: f})
	i.n.Poke(int32(len(i.faults)))
	i.lock.Unlock()
}

// Clear removes all faults.
func (i *Injector) Clear() {
	i.lock.Lock()
	i.faults = nil
	i.n.Poke(0)
	i.lock.Unlock()
}

// Failed returns how many bios have been made to fail.
func (i *Injector) Failed() int {
	i.lock.Lock()
	n := i.failed
	i.lock.Unlock()
	return n
}

// check returns the first sector at which a transfer fails, or noFailure. It
// counts the transfer.
func (i *Injector) check(d Dir, sector, sectors uint64) uint64 {
	if i.n.Peek() == 0 {
		return noFailure
	}
	at := uint64(noFailure)
	i.lock.Lock()
	for k := range i.faults {
		f := &i.faults[k]
		if f.First >= sector+sectors || f.Last < sector || d == Read && !f.Reads || d == Write && !f.Writes {
			continue
		}
		f.seen++
		if f.seen <= f.Skip || f.Count > 0 && f.hits >= f.Count {
			continue
		}
		f.hits++
		i.failed++
		at = max(f.First, sector)
		break
	}
	i.lock.Unlock()
	return at
}
