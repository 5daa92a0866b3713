package vmtest_test

import (
	"bytes"
	"fmt"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// A page is corrupted, and is not under a fix: a thread reads 512 bytes from disk into a
// page, the process forks while the transfer is in flight, and then stores elsewhere in
// the same page. In 2.6.29 the store copies the page for the parent; the device goes on
// writing to the old one, which is the child's now.
func Example_corruption() {
	for _, p := range []mm.Policy{policy.Stock{}, policy.PGGUP{}} {
		m, err := kernel.Boot(kernel.Options{
			CPUs: 2, Memory: 4 << 20, Regime: sched.Timed, Policy: p,
			Disks: []kernel.Disk{{Name: "vda", Size: 4096}},
		})
		if err != nil {
			fmt.Println(err)
			return
		}
		copy(m.DiskData("vda"), bytes.Repeat([]byte("disk"), 128))
		m.Run(func(t *kernel.Thread) {
			fd, _ := t.Open("/dev/vda", fs.ORdonly|fs.ODirect)
			buf := t.MustMmap(4096)
			t.Fill(buf, 4096, '.')
			reader := t.Go("reader", func(r *kernel.Thread) {
				n, err := r.Pread(fd, buf, 512, 0)
				fmt.Printf("%-7s read returned %d, %v: %s\n", p.Name(), n, err, r.Bytes(buf, 8))
			})
			t.Usleep(20) // the transfer takes 50 us: it is in flight
			pid, _ := t.Fork(func(c *kernel.Thread) { c.Usleep(1000) })
			t.Store8(buf+2048, 'x')
			_ = t.Join(reader)
			_, _, _ = t.Wait(pid)
		})
		m.Shutdown()
	}
	// Output:
	// stock   read returned 512, <nil>: ........
	// pg_gup  read returned 512, <nil>: diskdisk
}
