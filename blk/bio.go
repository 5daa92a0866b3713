package blk

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// SectorShift is log2 of the unit of Bio.Sector, whatever the device's own
// sector size: 512 bytes.
const SectorShift = 9

// SectorSize is 512 bytes.
const SectorSize = 1 << SectorShift

// MaxVecs is the most pieces a bio may have (BIO_MAX_PAGES).
const MaxVecs = 256

// Dir is the direction of a transfer, seen from memory as in Linux.
type Dir uint8

// The directions.
const (
	Read  Dir = iota // the device writes memory
	Write            // the device reads memory
)

// String returns "read" or "write".
func (d Dir) String() string {
	if d == Write {
		return "write"
	}
	return "read"
}

// BioVec is a piece of a page: Len bytes from Off, both multiples of 512.
type BioVec struct {
	// Page is the page as its owner knows it. The device does not look at it: an owner
	// that is done with a page may set it to nil. Owner.
	Page *page.Page
	// Off and Len are in bytes. Immutable once submitted.
	Off, Len uint32
	// pfn is the frame that DMA goes to. Immutable once submitted.
	pfn x86.PFN
}

// PFN returns the frame of the piece.
func (v *BioVec) PFN() x86.PFN { return v.pfn }

// Bio is one request for a contiguous range of sectors (struct bio). It
// belongs to who allocated it until it is submitted, and again from EndIO on.
type Bio struct {
	// Dev is the device. Immutable once submitted.
	Dev *Device
	// Sector is the first sector, in units of 512 bytes. Immutable once submitted.
	Sector uint64
	// Dir is the direction. Immutable once submitted.
	Dir Dir
	// Sync asks the queue not to wait for more (BIO_RW_SYNC). Immutable once submitted.
	Sync bool
	// Vec lists the pieces in the order of the sectors. Immutable once submitted.
	Vec []BioVec
	// Size is the sum of the pieces in bytes. Immutable once submitted.
	Size uint32
	// EndIO is called when the transfer is over: on the submitting CPU in
	// interrupt context with interrupts off, or from SubmitBio itself if the
	// sectors do not exist. err is nil or unix.EIO.
	EndIO func(t *sched.Task, b *Bio, err error)
	// Private and Next are the owner's, from before submission (Private) or from
	// EndIO on (Next).
	Private any
	Next    *Bio
	// Err is what EndIO was told. Set before EndIO.
	Err error

	maxVecs int    // room in Vec, as asked for; immutable
	segs    int    // pieces that are not physically contiguous; immutable once submitted
	link    *Bio   // the queue's: the next bio of the request; free list
	flow    uint64 // number in traces; immutable once submitted

	wait     lock.Completion // of SubmitBioWait
	waitInit bool
}

// AllocBio returns an empty bio for at most nvecs pieces (bio_alloc; it does
// not fail, as with a mempool). nvecs is 1 to MaxVecs.
func (s *System) AllocBio(t *sched.Task, dev *Device, dir Dir, sector uint64, nvecs int) *Bio {
	if nvecs < 1 || nvecs > MaxVecs {
		t.Oops("bio of %d pieces", nvecs)
	}
	c := &s.cpus[t.C.ID]
	b := c.bios
	if b != nil {
		c.bios = b.link
		b.link = nil
	} else {
		b = &Bio{}
	}
	if cap(b.Vec) < nvecs {
		b.Vec = make([]BioVec, 0, vecRoom(nvecs))
	}
	b.Dev, b.Dir, b.Sector, b.maxVecs = dev, dir, sector, nvecs
	return b
}

// vecRoom rounds a number of pieces up to the size of a pool (bvec_slabs).
func vecRoom(n int) int {
	for _, size := range [...]int{1, 4, 16, 64, 128} {
		if n <= size {
			return size
		}
	}
	return MaxVecs
}

// PutBio gives a bio back (bio_put). It may be called in interrupt context. The pages
// are the caller's business.
func (s *System) PutBio(t *sched.Task, b *Bio) {
	clear(b.Vec)
	b.Vec = b.Vec[:0]
	b.Dev, b.EndIO, b.Private, b.Next, b.Err = nil, nil, nil, nil, nil
	b.Sector, b.Size, b.segs, b.Dir, b.Sync, b.flow = 0, 0, 0, Read, false, 0
	c := &s.cpus[t.C.ID]
	b.link = c.bios
	c.bios = b
}

// AddPage appends n bytes of p from off (bio_add_page). A piece that continues the
// last one of the same page grows it. It returns n, or 0 if the bio is full: by
// its own room or by the device's limits.
func (b *Bio) AddPage(p *page.Page, off, n uint32) uint32 {
	q := &b.Dev.q
	if uint64(b.Size+n)>>SectorShift > uint64(q.maxSectors) {
		return 0
	}
	pfn := q.dev.sys.pages.PFN(p)
	if k := len(b.Vec); k > 0 {
		last := &b.Vec[k-1]
		if last.Page == p && last.Off+last.Len == off {
			last.Len += n
			b.Size += n
			return n
		}
		if k >= b.maxVecs {
			return 0
		}
		if !last.adjoins(pfn, off) {
			if b.segs >= q.maxSegments {
				return 0
			}
			b.segs++
		}
	} else {
		b.segs = 1
	}
	b.Vec = append(b.Vec, BioVec{Page: p, Off: off, Len: n, pfn: pfn})
	b.Size += n
	return n
}

// adjoins reports whether a piece at off of pfn continues v in physical memory
// (BIOVEC_PHYS_MERGEABLE).
func (v *BioVec) adjoins(pfn x86.PFN, off uint32) bool {
	end := uint64(v.pfn)<<x86.PageShift + uint64(v.Off) + uint64(v.Len)
	return end == uint64(pfn)<<x86.PageShift+uint64(off)
}

// Sectors returns the length in units of 512 bytes.
func (b *Bio) Sectors() uint64 { return uint64(b.Size) >> SectorShift }

// End returns the sector after the last.
func (b *Bio) End() uint64 { return b.Sector + b.Sectors() }

// Flow is the bio's number in traces, unique among bios in flight.
func (b *Bio) Flow() uint64 { return b.flow }

// VecsFor returns how many pieces a bio for the device can have at most
// (bio_get_nr_vecs).
func (d *Device) VecsFor() int {
	n := (d.q.maxSectors<<SectorShift + x86.PageSize - 1) >> x86.PageShift
	return max(1, min(n, d.q.maxSegments, MaxVecs))
}

// check stops the machine for a bio that no driver could serve.
func (b *Bio) check(t *sched.Task) {
	sum := uint32(0)
	for i := range b.Vec {
		v := &b.Vec[i]
		if v.Len == 0 || (v.Off|v.Len)&(SectorSize-1) != 0 {
			t.Oops("bio piece %d of frame %#x: bytes %d+%d are not whole sectors", i, v.pfn, v.Off, v.Len)
		}
		sum += v.Len
	}
	if sum == 0 || sum != b.Size || b.EndIO == nil {
		t.Oops("bio of %d bytes with %d in its pieces", b.Size, sum)
	}
}
