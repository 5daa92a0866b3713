package kernel

import (
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// System calls of swap and of locked memory. A disk whose option Swap is set has been through mkswap(8).

// Swapon makes the named disk, /dev/NAME, a swap area: swapon(2). flags are 0, or
// mm.SwapFlagPrefer and a priority. Errors are ENOENT and those of
// mm.System.SwapOn.
func (t *Thread) Swapon(path string, flags int) error {
	return t.withSwap(SysSwapon, path, func(task *sched.Task, dev *blk.Device) error {
		return t.m.sys.SwapOn(task, dev, flags)
	})
}

// Swapoff brings everything back from a swap area and gives it up: swapoff(2). Errors
// are ENOENT and those of mm.System.SwapOff.
func (t *Thread) Swapoff(path string) error {
	return t.withSwap(SysSwapoff, path, func(task *sched.Task, dev *blk.Device) error {
		return t.m.sys.SwapOff(task, dev)
	})
}

func (t *Thread) withSwap(nr Sysno, path string, fn func(task *sched.Task, dev *blk.Device) error) error {
	task := t.enter(nr, 0, 0)
	err := error(unix.ENOENT)
	if name, ok := strings.CutPrefix(path, "/dev/"); ok {
		if dev := t.m.Disk(name); dev != nil {
			err = fn(task, dev)
		}
	}
	t.leave(nr, result(0, err))
	return err
}

// makeSwap writes the header of a swap area to a disk's backing.
func makeSwap(b blk.Backing) error {
	var header [mm.SwapHeaderSize]byte
	mm.MakeSwap(header[:], uint64(b.Bytes()))
	return b.WriteAt(header[:], 0)
}

// Mlock makes the pages of a range present and keeps them in memory: mlock(2). Errors
// are those of mm.SysMlock.
func (t *Thread) Mlock(addr, length uint64) error {
	task := t.enter(SysMlock, addr, length)
	err := mm.SysMlock(task, t.p.space, addr, length)
	t.leave(SysMlock, result(0, err))
	return err
}

// Munlock takes Mlock back: munlock(2). Errors are those of mm.SysMunlock.
func (t *Thread) Munlock(addr, length uint64) error {
	task := t.enter(SysMunlock, addr, length)
	err := mm.SysMunlock(task, t.p.space, addr, length)
	t.leave(SysMunlock, result(0, err))
	return err
}

// Mlockall locks what is mapped, or will be: mlockall(2) with mm.MCLCurrent and
// mm.MCLFuture. EINVAL for other flags.
func (t *Thread) Mlockall(flags int) error {
	task := t.enter(SysMlockall, uint64(flags), 0)
	err := mm.SysMlockall(task, t.p.space, flags)
	t.leave(SysMlockall, result(0, err))
	return err
}

// Munlockall takes all of that back: munlockall(2).
func (t *Thread) Munlockall() error {
	task := t.enter(SysMunlockall, 0, 0)
	err := mm.SysMunlockall(task, t.p.space)
	t.leave(SysMunlockall, result(0, err))
	return err
}
