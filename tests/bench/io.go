package bench

import (
	"fmt"
	"time"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

const (
	diskName  = "vda"
	diskBytes = 8 << 20 // as large as native's file
)

// openDisk opens the machine's disk for direct reads.
func openDisk(t *kernel.Thread) int {
	fd, err := t.Open("/dev/"+diskName, fs.ORdonly|fs.ODirect)
	must(err, "open")
	return fd
}

// reads does direct reads of bytes each, where the offsets step as native's do.
func reads(t *kernel.Thread, fd int, buf uint64, calls, bytes, step int) time.Duration {
	start := time.Now()
	for i := range calls {
		got, err := t.Pread(fd, buf, bytes, int64(i*step%diskBytes))
		if err != nil || got != bytes {
			panic(fmt.Errorf("direct read: %d bytes, %w", got, err))
		}
	}
	return time.Since(start)
}

// direct1M reads n pages, a MiB at a time, and returns what that took less the
// copying that the device did.
func direct1M(t *kernel.Thread, n int) time.Duration {
	const pages = megabyte / pageSize
	calls := (n + pages - 1) / pages
	fd := openDisk(t)
	buf := region(t, pages)
	reads(t, fd, buf, 1, megabyte, megabyte)
	d := reads(t, fd, buf, calls, megabyte, megabyte)
	d -= deviceCopy(t, buf, calls)
	must(t.Close(fd), "close")
	return max(d, 0) * time.Duration(n) / time.Duration(calls*pages)
}

// deviceCopy does the moves of the device alone, between the same places.
func deviceCopy(t *kernel.Thread, buf uint64, calls int) (d time.Duration) {
	m := t.Machine()
	disk, mem := m.DiskData(diskName), m.Sched().Mem()
	pages := make([]*page.Page, megabyte/pageSize)
	kernelMode(t, func(task *sched.Task) {
		pinAll(task, buf, pages, fastCall, takeFast)
		start := time.Now()
		for i := range calls {
			from := disk[i*megabyte%diskBytes:]
			for k, p := range pages {
				mem.DMAWrite(m.Pages().PFN(p), 0, from[k*pageSize:(k+1)*pageSize])
			}
		}
		d = time.Since(start)
		mm.SystemOf(task).PutUserPages(task, pages, mm.PinGet)
	})
	return d
}

// direct reads n times, bytes each, and returns the whole time.
func direct(bytes int) batch {
	return func(t *kernel.Thread, n int) time.Duration {
		fd := openDisk(t)
		buf := region(t, max(1, bytes/pageSize))
		reads(t, fd, buf, 1, bytes, bytes)
		d := reads(t, fd, buf, n, bytes, 37*bytes)
		must(t.Close(fd), "close")
		return d
	}
}
