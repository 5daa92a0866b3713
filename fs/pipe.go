package fs

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/lock"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm/page"
)

// PipeBuffers is how many buffers a pipe has (PIPE_BUFFERS).
const PipeBuffers = 16

// Pipe is a ring of buffers between writers and readers: pipe_inode_info. A buffer is
// a piece of a page: of one that write(2) allocated and copied to, or of one that
// vmsplice found in the writer's memory and did not copy.
//
//	cur          cur+n
//	 v             v
//	[page][page][page][    ]...        one reference each
//
// Linux 2.6.29 fs/pipe.c.
type Pipe struct {
	inode *Inode         // immutable
	wait  lock.WaitQueue // readers and writers

	// What follows is protected by inode.IMutex.
	bufs             [PipeBuffers]pipeBuffer
	cur, n           int
	tmp              *page.Page // a page for the next write, or nil (tmp_page)
	readers, writers int        // open files
	waitingWriters   int
	copy             [x86.PageSize]byte // the kernel's mapping of a page, while it is copied

	next *Pipe // list of the machine's pipes; protected by pipeList.lock
}

// pipeBuffer is pipe_buffer.
type pipeBuffer struct {
	page     *page.Page
	off, len uint32
	user     *spliced // whose memory it is; nil for a page of the pipe's own
}

// pipeList is the pipes of a machine, for invariants. It is the tool's.
type pipeList struct {
	lock x86.RawSpin
	head *Pipe
	n    int // made so far
}

// Pipe makes a pipe and returns its two ends, each with a reference for the caller:
// do_pipe_flags. flags may hold ONonblock and OCloexec; anything else is EINVAL. ENFILE if
// there is no memory.
func (s *System) Pipe(t *sched.Task, flags OpenFlags) (r, w *File, err error) {
	if flags&^(ONonblock|OCloexec) != 0 {
		return nil, nil, unix.EINVAL
	}
	if s.pages.FailSite(t, "pipe_inode_info") {
		return nil, nil, unix.ENFILE
	}
	for range 2 {
		if s.pages.FailSite(t, siteFile) {
			return nil, nil, unix.ENFILE
		}
	}
	p := &Pipe{readers: 1, writers: 1}
	l := &s.pipes
	l.lock.Lock()
	l.n++
	p.inode = &Inode{FS: s, Path: fmt.Sprintf("pipe:[%d]", l.n), ops: pipeFile{p}, pipe: p, obj: s.m.NewObj(x86.ClassWord)}
	p.next, l.head = l.head, p
	l.lock.Unlock()
	p.inode.IMutex.Init(s.m, lock.Pipe)
	p.wait.Init(s.m)
	return s.newFile(p.inode, ORdonly|flags&ONonblock), s.newFile(p.inode, OWronly|flags&ONonblock), nil
}

// buffer returns the i-th buffer that holds something.
func (p *Pipe) buffer(i int) *pipeBuffer { return &p.bufs[(p.cur+i)%PipeBuffers] }

// pause waits until somebody has read, written or closed (pipe_wait). IMutex is held
// before and after, not meanwhile.
func (p *Pipe) pause(t *sched.Task) {
	p.wait.Prepare(t, sched.TaskInterruptible)
	p.inode.IMutex.Unlock(t)
	t.Schedule()
	p.wait.Finish(t)
	p.inode.IMutex.Lock(t)
	t.WriteOf(p, "pipe")
}

// release lets go of a buffer's page: anon_pipe_buf_release keeps one page that nobody
// else has for the next write, page_cache_pipe_buf_release gives the reference of
// get_user_pages back.
func (p *Pipe) release(t *sched.Task, b *pipeBuffer) {
	s, pg := p.inode.FS, b.page
	switch {
	case b.user != nil:
		s.putSpliced(t, b.user, pg)
	case p.tmp == nil && s.pages.Refs(t, pg) == 1:
		p.tmp = pg
	default:
		s.pages.PutAs(t, pg, page.RefPipe)
	}
	*b = pipeBuffer{}
}

// pipeFile is the file operations of both ends.
type pipeFile struct{ p *Pipe }

// Fsync implements FileOps.
func (pipeFile) Fsync(*sched.Task, *File) error { return unix.EINVAL }

// iovCursor walks over buffers of user memory and leaves the list as it is.
type iovCursor struct {
	iov []IOVec
	off uint64 // within the first
}

// copy moves b to or from the memory at the cursor, and the cursor behind it. False
// means EFAULT.
func (c *iovCursor) copy(t *sched.Task, m userMemory, b []byte, toUser bool) bool {
	for len(b) > 0 {
		v := c.iov[0]
		if c.off == v.Len {
			c.iov, c.off = c.iov[1:], 0
			continue
		}
		part := b[:min(uint64(len(b)), v.Len-c.off)]
		n := 0
		switch at := v.Base + c.off; {
		case !accessOK(at, uint64(len(part))):
		case toUser:
			n = m.copyToUser(t, at, part)
		default:
			n = m.copyFromUser(t, at, part)
		}
		c.off += uint64(n)
		if n < len(part) {
			return false
		}
		b = b[n:]
	}
	return true
}

// take implements pipeSink: reading into user memory.
func (c *iovCursor) take(t *sched.Task, p *Pipe, b []byte) (int, error) {
	if !c.copy(t, p.inode.FS.mem, b, true /* toUser */) {
		return 0, unix.EFAULT
	}
	return len(b), nil
}

func iovLength(iov []IOVec) (n uint64) {
	for _, v := range iov {
		n += v.Len
	}
	return n
}

// AIORead implements FileOps: pipe_read. It waits for data unless the file is
// ONonblock (EAGAIN), returns what there is, and 0 when no writer is left.
func (f pipeFile) AIORead(t *sched.Task, iocb *Kiocb, iov []IOVec, _ int64) (int64, error) {
	total := iovLength(iov)
	if total == 0 {
		return 0, nil
	}
	p := f.p
	p.inode.IMutex.Lock(t)
	t.WriteOf(p, "pipe")
	n, wake, err := p.drain(t, total, iocb.File.Flags&ONonblock != 0, false /* splice */, &iovCursor{iov: iov})
	p.inode.IMutex.Unlock(t)
	if wake {
		p.wait.Wake(t)
	}
	return n, err
}

// pipeSink is where the contents of a pipe go: user memory, or a file.
type pipeSink interface {
	// take takes bytes out of the pipe's first buffer and says how many. IMutex is held.
	take(t *sched.Task, p *Pipe, b []byte) (int, error)
}

// drain takes up to total bytes out of the pipe: the loops of pipe_read and, with
// splice set, of __splice_from_pipe, which heeds nonblock also where a writer sleeps.
// wake says that writers are to be woken once IMutex is free. An error comes only with
// nothing.
//
// Preconditions:
//   - IMutex is held
func (p *Pipe) drain(t *sched.Task, total uint64, nonblock, splice bool, sink pipeSink) (done int64, wake bool, err error) {
	s := p.inode.FS
	for total > 0 {
		if p.n > 0 {
			b := p.buffer(0)
			part := p.copy[:min(uint64(b.len), total)]
			t.C.Mem.ReadFrame(t.C, s.pages.PFN(b.page), uint64(b.off), part)
			var k int
			if k, err = sink.take(t, p, part); err != nil || k == 0 {
				break
			}
			done += int64(k)
			total -= uint64(k)
			b.off += uint32(k)
			b.len -= uint32(k)
			if b.len == 0 {
				p.release(t, b)
				p.cur = (p.cur + 1) % PipeBuffers
				p.n--
				wake = true
			}
			continue
		}
		if p.writers == 0 || done > 0 && p.waitingWriters == 0 {
			break
		}
		if nonblock && (splice || p.waitingWriters == 0) {
			err = unix.EAGAIN
			break
		}
		if t.SignalPending() {
			err = unix.EINTR
			break
		}
		if wake {
			p.wait.Wake(t)
		}
		p.pause(t)
	}
	if done > 0 {
		err = nil
	}
	return done, wake, err
}

// AIOWrite implements FileOps: pipe_write. It waits for room unless the file is
// ONonblock. Without readers it is EPIPE, and SIGPIPE.
func (f pipeFile) AIOWrite(t *sched.Task, iocb *Kiocb, iov []IOVec, _ int64) (int64, error) {
	total := iovLength(iov)
	if total == 0 {
		return 0, nil
	}
	p := f.p
	p.inode.IMutex.Lock(t)
	t.WriteOf(p, "pipe")
	n, wake, err := p.fill(t, total, iocb.File.Flags&ONonblock != 0, &iovCursor{iov: iov})
	p.inode.IMutex.Unlock(t)
	if wake {
		p.wait.Wake(t)
	}
	if n > 0 {
		err = nil
	}
	return n, err
}

// fill is pipe_write with the mutex held. What ended it comes with the count.
func (p *Pipe) fill(t *sched.Task, total uint64, nonblock bool, from *iovCursor) (done int64, wake bool, err error) {
	s := p.inode.FS
	if p.readers == 0 {
		s.sigpipe(t)
		return 0, false, unix.EPIPE
	}
	if chars := uint32(total % x86.PageSize); p.n > 0 && chars != 0 {
		// A small end goes into the last buffer, if that is one of the pipe's own.
		b := p.buffer(p.n - 1)
		if b.user == nil && b.off+b.len+chars <= x86.PageSize {
			wake = true
			if !from.copy(t, s.mem, p.copy[:chars], false /* toUser */) {
				return 0, wake, unix.EFAULT
			}
			t.C.Mem.WriteFrame(t.C, s.pages.PFN(b.page), uint64(b.off+b.len), p.copy[:chars])
			b.len += chars
			total -= uint64(chars)
			done = int64(chars)
		}
	}
	for total > 0 {
		if p.readers == 0 {
			s.sigpipe(t)
			return done, wake, unix.EPIPE
		}
		if p.n < PipeBuffers {
			if p.tmp == nil {
				pg := s.pages.Alloc(t, page.GFPHighUser, 0, "pipe_write")
				if pg == nil {
					return done, wake, unix.ENOMEM
				}
				s.pages.Relabel(t, pg, page.RefTemp, page.RefPipe, 1)
				p.tmp = pg
				t.C.Trace.Inc(trace.EmuPipePages)
			}
			wake = true // also if the copy fails
			part := p.copy[:min(total, x86.PageSize)]
			if !from.copy(t, s.mem, part, false /* toUser */) {
				return done, wake, unix.EFAULT
			}
			t.C.Mem.WriteFrame(t.C, s.pages.PFN(p.tmp), 0, part)
			p.bufs[(p.cur+p.n)%PipeBuffers] = pipeBuffer{page: p.tmp, len: uint32(len(part))}
			p.n++
			p.tmp = nil
			done += int64(len(part))
			total -= uint64(len(part))
			continue
		}
		if nonblock {
			return done, wake, unix.EAGAIN
		}
		if t.SignalPending() {
			return done, wake, unix.EINTR
		}
		if wake {
			p.wait.Wake(t)
			wake = false
		}
		p.waitingWriters++
		p.pause(t)
		p.waitingWriters--
	}
	return done, wake, nil
}

// closeEnd is pipe_release: an end is closed for the last time. With the last of both
// the buffers go, read or not.
func (p *Pipe) closeEnd(t *sched.Task, f *File) {
	p.inode.IMutex.Lock(t)
	t.WriteOf(p, "pipe")
	if f.Flags.CanRead() {
		p.readers--
	}
	if f.Flags.CanWrite() {
		p.writers--
	}
	if p.readers == 0 && p.writers == 0 {
		p.free(t)
	} else {
		p.wait.Wake(t)
	}
	p.inode.IMutex.Unlock(t)
}

// free is free_pipe_info.
func (p *Pipe) free(t *sched.Task) {
	s := p.inode.FS
	for ; p.n > 0; p.n-- {
		p.release(t, p.buffer(0))
		p.cur = (p.cur + 1) % PipeBuffers
	}
	if p.tmp != nil {
		s.pages.PutAs(t, p.tmp, page.RefPipe)
		p.tmp = nil
	}
	l := &s.pipes
	l.lock.Lock()
	for at := &l.head; *at != nil; at = &(*at).next {
		if *at == p {
			*at = p.next
			break
		}
	}
	l.lock.Unlock()
}

// WaitName names what a wait queue belongs to, "" if it is not the file layer's: for
// reports of a machine that stands still.
func (s *System) WaitName(o x86.ObjID) string {
	for p := s.pipes.head; p != nil; p = p.next {
		if p.wait.Obj() == o {
			return fmt.Sprintf("%s, %d of %d buffers, %d readers, %d writers", p.inode.Path, p.n, PipeBuffers, p.readers, p.writers)
		}
	}
	return ""
}

// sigpipe sends SIGPIPE to the task, if there is somebody who can.
func (s *System) sigpipe(t *sched.Task) {
	if s.SendSIGPIPE != nil {
		s.SendSIGPIPE(t)
	}
}

// CheckPipes returns what is wrong with the pipes. The machine must stand still. With
// rest set everybody has ended, and no pipe may be left.
//
//	invariant                                      guard
//	at most 16 buffers, none of them empty         the pipe's i_mutex
//	a buffer's page has a reference                the same
//	somebody has the pipe open                     the same
func (s *System) CheckPipes(rest bool) (errs []error) {
	for p := s.pipes.head; p != nil; p = p.next {
		name := p.inode.Path
		if rest {
			errs = append(errs, fmt.Errorf("fs: %s is left, %d buffers, %d readers, %d writers", name, p.n, p.readers, p.writers))
		}
		if p.inode.IMutex.Locked() {
			continue
		}
		if p.n < 0 || p.n > PipeBuffers || p.readers+p.writers <= 0 || p.readers < 0 || p.writers < 0 {
			errs = append(errs, fmt.Errorf("fs: %s has %d buffers, %d readers, %d writers", name, p.n, p.readers, p.writers))
			continue
		}
		for i := range p.n {
			b := p.buffer(i)
			if b.len == 0 || b.off+b.len > x86.PageSize {
				errs = append(errs, fmt.Errorf("fs: %s: buffer %d is %d+%d of a page", name, i, b.off, b.len))
			}
			if head := s.pages.Head(b.page); head.Count.Peek() <= 0 {
				errs = append(errs, fmt.Errorf("fs: %s: the page of buffer %d, pfn %#x, is free", name, i, uint64(s.pages.PFN(b.page))))
			}
		}
	}
	return errs
}
