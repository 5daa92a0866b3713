package fs

import (
	"math/bits"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
)

// blockFile is the file operations of a block device (def_blk_fops) with the
// parts of mm/filemap.c:generic_file_aio_read and generic_file_aio_write_nolock
// that apply to it.
type blockFile struct{}

// newBlockInode makes the inode of a block device (bd_set_size).
func newBlockInode(s *System, path string, d *blk.Device) *Inode {
	i := &Inode{FS: s, Path: path, Dev: d, Block: true, ops: blockFile{}, obj: s.m.NewObj(x86.ClassWord)}
	i.IMutex.Init(s.m, lock.IMutex)
	i.IAllocSem.Init(s.m, lock.IAllocSem)
	i.size.Poke(uint64(d.Bytes()))
	i.blkbits = softBlockBits(d)
	return i
}

// softBlockBits is log2 of the largest block, from the sector size to a page, of
// which the device's size is a multiple.
func softBlockBits(d *blk.Device) uint {
	size := uint(d.SectorSize())
	for size < x86.PageSize && uint64(d.Bytes())&uint64(size) == 0 {
		size <<= 1
	}
	return uint(bits.TrailingZeros(size))
}

// AIORead implements FileOps. At or beyond the end it returns 0, however the
// request is aligned, as 2.6.29 does.
func (blockFile) AIORead(t *sched.Task, iocb *Kiocb, iov []IOVec, pos int64) (int64, error) {
	f := iocb.File
	i := f.Inode
	iov, count, err := genericSegmentChecks(iov)
	if err != nil || count == 0 {
		return 0, err
	}
	if pos >= i.Size(t) {
		return 0, nil
	}
	var n int64
	if f.Flags&ODirect != 0 {
		n, err = i.FS.blkdevDirectIO(t, blk.Read, iocb, iov, pos)
	} else {
		n, err = i.FS.bufferedRead(t, i, iov, pos)
	}
	if err != nil {
		return 0, err
	}
	iocb.Pos = pos + n
	return n, nil
}

// AIOWrite implements FileOps. A device does not grow: a write that begins at its
// end is ENOSPC, one that goes beyond is cut.
func (blockFile) AIOWrite(t *sched.Task, iocb *Kiocb, iov []IOVec, pos int64) (int64, error) {
	f := iocb.File
	i := f.Inode
	iov, ocount, err := genericSegmentChecks(iov)
	if err != nil {
		return 0, err
	}
	count, err := genericWriteChecks(t, i, pos, ocount)
	if err != nil || count == 0 {
		return 0, err
	}
	if count != ocount {
		iov = iovShorten(iov, uint64(count))
	}
	n := int64(0)
	if f.Flags&ODirect != 0 {
		if n, err = i.FS.blkdevDirectIO(t, blk.Write, iocb, iov, pos); err != nil {
			return 0, err
		}
		if n < count {
			// Direct I/O met a hole: the rest goes the other way.
			t.C.Trace.Inc(trace.EmuDIOFallback)
			iov = iovSkip(iov, uint64(n))
		}
	}
	if n < count {
		more, err := i.FS.bufferedWrite(t, i, iov, pos+n)
		if err != nil && n == 0 {
			return 0, err
		}
		n += more
	}
	iocb.Pos = pos + n
	return n, nil
}

// Fsync implements FileOps: nothing is held back.
func (blockFile) Fsync(*sched.Task, *File) error { return nil }

// genericWriteChecks returns how much may be written (generic_write_checks, block
// devices).
func genericWriteChecks(t *sched.Task, i *Inode, pos, count int64) (int64, error) {
	if i.Dev.ReadOnly() {
		return 0, unix.EPERM
	}
	size := i.Size(t)
	if pos >= size {
		if count != 0 || pos > size {
			return 0, unix.ENOSPC
		}
		return 0, nil
	}
	return min(count, size-pos), nil
}

// blkdevDirectIO is blkdev_direct_IO.
func (s *System) blkdevDirectIO(t *sched.Task, rw blk.Dir, iocb *Kiocb, iov []IOVec, off int64) (int64, error) {
	i := iocb.File.Inode
	return s.blockdevDirectIO(t, rw, iocb, i, iov, off, blkdevGetBlocks, nil, DIONoLocking)
}

// blkdevGetBlocks maps blocks of a device to themselves (blkdev_get_blocks):
// EIO for a write beyond the end, an unmapped buffer for a read there.
func blkdevGetBlocks(_ *sched.Task, i *Inode, block uint64, bh *MapBH, create bool) error {
	end := uint64(i.Dev.Bytes()) >> i.blkbits
	blocks := bh.Size >> i.blkbits
	if block+blocks > end {
		if block >= end {
			if create {
				return unix.EIO
			}
			blocks = 0
		} else {
			blocks = end - block
		}
	}
	bh.Block, bh.Size, bh.Mapped = block, blocks<<i.blkbits, blocks > 0
	return nil
}
