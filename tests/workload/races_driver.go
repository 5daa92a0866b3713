package workload

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// The two races with a driver in place of direct I/O: it registers memory by gup-fast with
// FOLL_PIN, as drivers do since 5.7; the device acts when both threads are through,
// which is the latest that it can.

// driverFork is the forward race: the device writes.
func driverFork() *Workload {
	return &Workload{
		Name:   "driver_fork",
		Title:  "one thread has a driver pin a page for its device to write while another forks and stores to the page",
		Group:  ForwardRace,
		Lines:  "376-402",
		Needs:  mm.Forward | mm.OtherPins,
		Memory: raceMemory,
		CPUs:   2, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Main: func(t *kernel.Thread, r *Run) {
			buf := t.MustMmap(x86.PageSize)
			t.Store64(buf, 0)
			c := newCourse(t, r, 2)
			var reg *kernel.Registration
			driver := t.Go("driver", func(t *kernel.Thread) {
				c.begin(t)
				var err error
				reg, err = t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{Write: true, Fast: true, Kind: mm.PinPin})
				r.failed(err, "register")
				c.through(t, 1)
			})
			c.begin(t)
			var child *mm.MM
			r.failed(t.Kernel(func(task *sched.Task) (err error) {
				child, err = t.MM().Sys.DupMM(task, t.MM())
				return err
			}), "fork")
			t.Store64(buf, 1)
			c.end(t, func() {
				if reg != nil {
					r.failed(t.DeviceWrite(reg, pinnedAt, []byte{pinnedByte}), "device write")
					r.compare(LostRead, "buffer", pinnedAt, []byte{pinnedByte}, t.Bytes(buf+pinnedAt, 1))
				}
			})
			r.failed(t.Join(driver), "join")
			if reg != nil {
				r.failed(t.UnregisterMemory(reg), "unregister")
			}
			if child != nil {
				_ = t.Kernel(func(task *sched.Task) error { child.MMPut(task); return nil })
			}
		},
	}
}

// driverStore is the reverse race: the device reads a page that was shared with a child
// when the parent had it pinned.
func driverStore() *Workload {
	return &Workload{
		Name:   "driver_store",
		Title:  "the parent has a driver pin a page shared with a child for its device to read, and stores; so does the child",
		Group:  ReverseRace,
		Lines:  "4107-4275",
		Needs:  mm.Reverse | mm.OtherPins,
		Memory: raceMemory,
		CPUs:   2, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.SectorSize },
		Main: func(t *kernel.Thread, r *Run) {
			buf := t.MustMmap(x86.PageSize)
			t.Store64(buf, 0)
			c := newCourse(t, r, 2)
			pid, err := t.Fork(func(t *kernel.Thread) {
				c.begin(t)
				t.Store8(buf, 0xff)
				c.through(t, 1)
				t.Exit(0)
			})
			if r.failed(err, "fork") {
				return
			}
			c.begin(t)
			reg, err := t.RegisterMemory(buf, x86.PageSize, kernel.RegisterOptions{Fast: true, Kind: mm.PinPin})
			r.failed(err, "register")
			t.Store8(buf, 0x11)
			c.end(t, func() {
				var got [1]byte
				if reg == nil || r.failed(t.DeviceRead(reg, 0, got[:]), "device read") {
					return
				}
				if b := got[0]; b != 0 && b != 0x11 {
					r.find(Finding{Verdict: LeakToChild, Where: "device", Want: 0x11, Got: int(b), Note: "the device reads the child's byte"})
				}
			})
			if reg != nil {
				r.failed(t.UnregisterMemory(reg), "unregister")
			}
			_, _, err = t.Wait(pid)
			r.failed(err, "wait")
		},
	}
}
