package blk

import "fmt"

// Backing is where a device's sectors are kept. Offsets and lengths are
// multiples of 512 and inside the device. In the parallel regime several
// requests may be served at once: the methods must be safe for concurrent use.
type Backing interface {
	// Bytes is the size, which does not change.
	Bytes() int64
	// ReadOnly reports whether WriteAt always fails.
	ReadOnly() bool
	// ReadAt fills p. Any error makes the bio fail with EIO.
	ReadAt(p []byte, off int64) error
	// WriteAt stores p.
	WriteAt(p []byte, off int64) error
}

// slicer is a Backing in host memory that DMA can use in place. The slices are
// only touched by x86.Memory's DMA primitives, which are bare moves: two requests for
// the same sector race as they do on a disk.
type slicer interface {
	slice(off int64, n int) []byte
}

// RAMDisk is a Backing in host memory.
type RAMDisk struct{ data []byte }

// NewRAMDisk returns a disk of so many zero bytes, a multiple of 512.
func NewRAMDisk(bytes int64) (*RAMDisk, error) {
	if bytes <= 0 || bytes%SectorSize != 0 {
		return nil, fmt.Errorf("blk: RAM disk of %d bytes, must be a multiple of 512 and not zero", bytes)
	}
	return &RAMDisk{make([]byte, bytes)}, nil
}

// RAMDiskOf returns a disk whose sectors are data itself: what a program
// writes is seen there once the machine has stopped. The length must be a multiple of 512.
func RAMDiskOf(data []byte) (*RAMDisk, error) {
	if len(data) == 0 || len(data)%SectorSize != 0 {
		return nil, fmt.Errorf("blk: RAM disk of %d bytes, must be a multiple of 512 and not zero", len(data))
	}
	return &RAMDisk{data}, nil
}

// Data returns the sectors. They may be looked at and changed while the machine is stopped.
func (d *RAMDisk) Data() []byte { return d.data }

// Bytes implements Backing.
func (d *RAMDisk) Bytes() int64 { return int64(len(d.data)) }

// ReadOnly implements Backing.
func (d *RAMDisk) ReadOnly() bool { return false }

// ReadAt implements Backing.
func (d *RAMDisk) ReadAt(p []byte, off int64) error {
	copy(p, d.data[off:])
	return nil
}

// WriteAt implements Backing.
func (d *RAMDisk) WriteAt(p []byte, off int64) error {
	copy(d.data[off:], p)
	return nil
}

func (d *RAMDisk) slice(off int64, n int) []byte { return d.data[off : off+int64(n)] }
