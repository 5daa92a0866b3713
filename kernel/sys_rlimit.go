package kernel

import (
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/mm"
)

// Rlimit names a resource limit, with Linux' numbers: those that memory management looks at.
type Rlimit int

// The resource limits.
const (
	RlimitData    Rlimit = 2
	RlimitStack   Rlimit = 3
	RlimitMemlock Rlimit = 8
	RlimitAS      Rlimit = 9
)

// fields returns where a limit is kept, soft and hard, and what zero means of the soft one; nil
// if there is no such limit.
func (r Rlimit) fields(l *mm.Limits) (soft, hard *uint64, unset uint64) {
	switch r {
	case RlimitData:
		return &l.Data, &l.Hard.Data, mm.RlimInfinity
	case RlimitStack:
		return &l.Stack, &l.Hard.Stack, mm.DefaultStack
	case RlimitMemlock:
		return &l.Memlock, &l.Hard.Memlock, mm.RlimInfinity
	case RlimitAS:
		return &l.AS, &l.Hard.AS, mm.RlimInfinity
	}
	return nil, nil, 0
}

// In mm.Limits zero is a limit that was never set, so that one of zero bytes is kept as one byte,
// which is no page either.
func keepLimit(n uint64) uint64 { return max(n, 1) }

func keptLimit(n, unset uint64) uint64 {
	switch n {
	case 0:
		return unset
	case 1:
		return 0
	}
	return n
}

// Getrlimit returns a soft limit and the hard one that it can be raised to, in bytes;
// mm.RlimInfinity is none: getrlimit(2). EINVAL: no such limit here.
func (t *Thread) Getrlimit(r Rlimit) (soft, hard uint64, err error) {
	task := t.enter(SysGetrlimit, uint64(r), 0)
	m := t.p.space
	m.MmapSem.DownRead(task)
	if s, h, unset := r.fields(&m.Limits); s == nil {
		err = unix.EINVAL
	} else {
		soft, hard = keptLimit(*s, unset), keptLimit(*h, mm.RlimInfinity)
	}
	m.MmapSem.UpRead(task)
	t.leave(SysGetrlimit, result(0, err))
	return soft, hard, err
}

// Setrlimit sets both: setrlimit(2). EINVAL: no such limit here, or the soft one is above
// the hard one; EPERM: the hard one is raised by a process that is mm.Limits.Unprivileged.
// Linux 2.6.29 kernel/sys.c:sys_setrlimit.
func (t *Thread) Setrlimit(r Rlimit, soft, hard uint64) error {
	task := t.enter(SysSetrlimit, uint64(r), soft)
	m := t.p.space
	m.MmapSem.DownWrite(task)
	err := error(nil)
	s, h, _ := r.fields(&m.Limits)
	switch {
	case s == nil || soft > hard:
		err = unix.EINVAL
	case hard > keptLimit(*h, mm.RlimInfinity) && m.Limits.Unprivileged:
		err = unix.EPERM
	default:
		*s, *h = keepLimit(soft), keepLimit(hard)
	}
	m.MmapSem.UpWrite(task)
	t.leave(SysSetrlimit, result(0, err))
	return err
}
