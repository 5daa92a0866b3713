package fs

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
)

// file makes an inode of size bytes in blocks of 4 KiB, as a file system would have it.
func (r *rig) file(size int) *Inode {
	i := &Inode{FS: r.fs, Path: "file", Dev: r.dev, blkbits: 12, obj: r.m.NewObj(x86.ClassWord), ops: blockFile{}}
	i.IMutex.Init(r.m, lock.IMutex)
	i.IAllocSem.Init(r.m, lock.IAllocSem)
	i.size.Poke(uint64(size))
	return i
}

// blockMap is a file system's map of a file: file block -> device block + 1.
type blockMap struct {
	blocks map[uint64]uint64
	next   uint64 // device block for the next that is created; 0 is none
	calls  int
}

func (b *blockMap) get(_ *sched.Task, _ *Inode, block uint64, bh *MapBH, create bool) error {
	b.calls++
	want := bh.Size
	bh.Size = 0
	for n := uint64(0); bh.Size < want; n++ {
		at, ok := b.blocks[block+n]
		fresh := false
		if !ok && create && b.next > 0 && n == 0 {
			at, ok, fresh = b.next+1, true, true
			b.blocks[block+n] = at
			b.next++
		}
		if !ok || n > 0 && at-1 != bh.Block+n {
			break
		}
		if n == 0 {
			bh.Block, bh.Mapped, bh.New = at-1, true, fresh
		}
		bh.Size += 4096
		if fresh {
			break
		}
	}
	return nil
}

func (u *user) dio(rw blk.Dir, i *Inode, b *blockMap, lt DIOLock, pos int64, iov ...IOVec) (int64, error) {
	k := u.r.fs.allocKiocb(u.t, &File{Inode: i}, pos)
	n, err := u.r.fs.blockdevDirectIO(u.t, rw, k, i, iov, pos, b.get, nil, lt)
	u.r.fs.freeKiocb(u.t, k)
	return n, err
}

// TestHoles: a file with blocks in disorder and holes.
func TestHoles(t *testing.T) {
	regimes(t, 1, 5, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		i := r.file(6*4096 + 100)
		b := &blockMap{blocks: map[uint64]uint64{0: 21, 1: 22, 3: 11, 4: 13, 6: 41}}
		r.run(func(u *user) {
			a := u.mmap(10)
			u.put(a, fill(10*4096, 0xee))
			n, err := u.dio(blk.Read, i, b, DIONoLocking, 512, IOVec{a + 512, 9*4096 - 512})
			u.want("read", n, err, 6*4096+100-512, nil)
			u.holds(a+512, 8192-512, 20*4096+512)
			zero := func(from, n int) {
				for k, c := range u.get(a+uint64(from), n) {
					if c != 0 {
						u.t.Oops("byte %d of a hole is %#x", from+k, c)
					}
				}
			}
			zero(2*4096, 4096)
			u.holds(a+3*4096, 4096, 10*4096)
			u.holds(a+4*4096, 4096, 12*4096)
			zero(5*4096, 4096)
			u.holds(a+6*4096, 100, 40*4096)
			// A write stops at a hole that nobody fills: the rest is for buffered I/O.
			n, err = u.dio(blk.Write, i, b, DIONoLocking, 0, IOVec{a, 4 * 4096})
			u.want("write", n, err, 2*4096, nil)
			n, err = u.dio(blk.Write, i, b, DIONoLocking, 2*4096, IOVec{a, 4096})
			u.want("write into a hole", n, err, 0, nil)
		})
	})
}

// TestNewBlocks: what a request does not cover of a new block becomes zero.
func TestNewBlocks(t *testing.T) {
	regimes(t, 1, 5, func(t *testing.T, cfg config) {
		r := newRig(t, cfg)
		i := r.file(8 * 4096)
		b := &blockMap{blocks: map[uint64]uint64{}, next: 50}
		data := fill(4096, 0x42)
		r.run(func(u *user) {
			a := u.mmap(2)
			u.put(a+512, data)
			n, err := u.dio(blk.Write, i, b, DIONoLocking, 1024, IOVec{a + 512, 1536})
			u.want("write", n, err, 1536, nil)
		})
		got := r.disk[50*4096 : 51*4096]
		assert.Equal(t, make([]byte, 1024), got[:1024])
		assert.Equal(t, data[:1536], got[1024:2560])
		assert.Equal(t, make([]byte, 4096-2560), got[2560:])
		assert.Equal(t, pattern(51*4096), r.disk[51*4096])
	})
}

// TestLocking: i_mutex and i_alloc_sem are free afterwards, whatever happened.
func TestLocking(t *testing.T) {
	w := newWitness()
	cfg := one()
	cfg.policy = w
	r := newRig(t, cfg)
	i := r.file(8 * 4096)
	b := &blockMap{blocks: map[uint64]uint64{0: 21, 1: 22}, next: 60}
	r.run(func(u *user) {
		a := u.mmap(4)
		free := func(what string) {
			if !i.IAllocSem.Idle() || !i.IMutex.TryLock(u.t) {
				u.t.Oops("%s: a lock is held", what)
			}
			i.IMutex.Unlock(u.t)
		}
		n, err := u.dio(blk.Read, i, b, DIOLocking, 0, IOVec{a, 8192})
		u.want("read", n, err, 8192, nil)
		free("read")
		n, err = u.dio(blk.Read, i, b, DIOLocking, 0, IOVec{0x5000, 8192})
		u.want("read", n, err, 0, unix.EFAULT)
		free("failed read")
		w.fail = unix.EINTR
		n, err = u.dio(blk.Read, i, b, DIOLocking, 0, IOVec{a, 8192})
		u.want("read", n, err, 0, unix.EINTR)
		free("refused read")
		w.fail = nil
		i.IMutex.Lock(u.t) // a writer holds it
		n, err = u.dio(blk.Write, i, b, DIOLocking, 0, IOVec{a, 8192})
		u.want("write", n, err, 8192, nil)
		n, err = u.dio(blk.Read, i, b, DIONoLocking, 0, IOVec{a, 8192})
		u.want("read", n, err, 8192, nil)
		i.IMutex.Unlock(u.t)
		n, err = u.dio(blk.Read, i, b, DIOOwnLocking, 0, IOVec{a, 8192})
		u.want("read", n, err, 8192, nil)
		i.IMutex.Unlock(u.t) // taken again for the caller
		free("all")
	})
}
