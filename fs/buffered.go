package fs

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm/page"
)

// Access without ODirect has no page cache behind it here: each page of the file
// goes through a page of the kernel's and a bio of its own, and the call returns when
// the device is done. What a program sees is the same, what it costs is not.

// bounce is the kernel's page and a copy of it on the way to or from user memory.
type bounce struct {
	page *page.Page
	buf  [x86.PageSize]byte
	next *bounce
}

// getBounce returns a bounce with a page, or nil without memory.
func (s *System) getBounce(t *sched.Task) *bounce {
	p := s.pages.Alloc(t, page.GFPKernel, 0, "buffered_io")
	if p == nil {
		return nil
	}
	c := &s.cpus[t.C.ID]
	b := c.bounces
	if b != nil {
		c.bounces = b.next
		b.next = nil
	} else {
		b = &bounce{}
	}
	b.page = p
	return b
}

func (s *System) putBounce(t *sched.Task, b *bounce) {
	s.pages.Put(t, b.page)
	b.page = nil
	c := &s.cpus[t.C.ID]
	b.next = c.bounces
	c.bounces = b
}

// transfer moves n bytes between the bounce's page and the device.
func (s *System) transfer(t *sched.Task, b *bounce, d *blk.Device, rw blk.Dir, pos int64, n int) error {
	bio := s.blk.AllocBio(t, d, rw, uint64(pos)>>blk.SectorShift, 1)
	bio.Sync = true
	if bio.AddPage(b.page, 0, uint32(n)) != uint32(n) {
		t.Oops("page does not fit into an empty bio")
	}
	err := s.blk.SubmitBioWait(t, bio)
	s.blk.PutBio(t, bio)
	return err
}

// bufferedRead reads without ODirect. It returns what it got before an error, and
// the error only if that is nothing.
func (s *System) bufferedRead(t *sched.Task, i *Inode, iov []IOVec, pos int64) (done int64, err error) {
	b := s.getBounce(t)
	if b == nil {
		return 0, unix.ENOMEM
	}
	pfn, size := s.pages.PFN(b.page), i.Size(t)
	at := int64(-1) // position of what the page holds
	for len(iov) > 0 && pos < size && err == nil {
		start := pos &^ (x86.PageSize - 1)
		n := int(min(x86.PageSize, size-start))
		if at != start {
			if err = s.transfer(t, b, i.Dev, blk.Read, start, n); err != nil {
				break
			}
			t.C.Mem.ReadFrame(t.C, pfn, 0, b.buf[:n])
			at = start
		}
		v := &iov[0]
		chunk := b.buf[pos-start : n]
		chunk = chunk[:min(uint64(len(chunk)), v.Len)]
		k := s.mem.copyToUser(t, v.Base, chunk)
		if k < len(chunk) {
			err = unix.EFAULT
		}
		done, pos = done+int64(k), pos+int64(k)
		iov = iovSkip(iov, uint64(k))
	}
	s.putBounce(t, b)
	if done > 0 {
		err = nil
	}
	return done, err
}

// bufferedWrite writes without ODirect: what shares a page with what is written is read
// first. i_mutex keeps two such writes apart.
func (s *System) bufferedWrite(t *sched.Task, i *Inode, iov []IOVec, pos int64) (done int64, err error) {
	b := s.getBounce(t)
	if b == nil {
		return 0, unix.ENOMEM
	}
	pfn, size := s.pages.PFN(b.page), i.Size(t)
	for len(iov) > 0 && err == nil {
		start := pos &^ (x86.PageSize - 1)
		n := int(min(x86.PageSize, size-start))
		v := &iov[0]
		chunk := b.buf[pos-start : n]
		chunk = chunk[:min(uint64(len(chunk)), v.Len)]
		k := s.mem.copyFromUser(t, v.Base, chunk)
		if k < len(chunk) {
			err = unix.EFAULT
		}
		if k > 0 {
			if err2 := s.writePart(t, b, i, pfn, start, n, int(pos-start), k); err2 != nil {
				err = err2
				break
			}
		}
		done, pos = done+int64(k), pos+int64(k)
		iov = iovSkip(iov, uint64(k))
	}
	s.putBounce(t, b)
	if done > 0 {
		err = nil
	}
	return done, err
}

// writePart writes bytes [off, off+k) of the n that the file has at start, from the
// same place in the bounce's buffer.
func (s *System) writePart(t *sched.Task, b *bounce, i *Inode, pfn x86.PFN, start int64, n, off, k int) (err error) {
	i.IMutex.Lock(t)
	if k < n {
		err = s.transfer(t, b, i.Dev, blk.Read, start, n)
	}
	if err == nil {
		t.C.Mem.WriteFrame(t.C, pfn, uint64(off), b.buf[off:off+k])
		err = s.transfer(t, b, i.Dev, blk.Write, start, n)
	}
	i.IMutex.Unlock(t)
	return err
}
