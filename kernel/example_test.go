package kernel_test

import (
	"bytes"
	"fmt"

	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Boot a machine, run a program on it that forks, and see that parent and child have
// memory of their own.
func ExampleBoot() {
	m, err := kernel.Boot(kernel.Options{CPUs: 2, Memory: 4 << 20, Regime: sched.Timed})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer m.Shutdown()
	out := m.Run(func(t *kernel.Thread) {
		addr := t.MustMmap(4096)
		t.Store64(addr, 1)
		pid, _ := t.Fork(func(c *kernel.Thread) {
			fmt.Println("child sees", c.Load64(addr))
			c.Store64(addr, 2)
			c.Exit(7)
		})
		t.Store64(addr, 3)
		_, status, _ := t.Wait(pid)
		fmt.Println("parent sees", t.Load64(addr), "and the child's", status)
	})
	fmt.Println("outcome:", out.Reason, out.Err())
	// Output:
	// child sees 1
	// parent sees 3 and the child's exit status 7
	// outcome: quiet <nil>
}

// The bug that this project is about. A thread reads from disk into half a page; while
// the transfer is in flight the process forks, and another thread stores into the other
// half of the page. Stock 2.6.29 then copies the page for the parent, because the child
// has it too, and the disk goes on writing into the old one: the data never arrives.
func Example_corruption() {
	m, _ := kernel.Boot(kernel.Options{
		CPUs: 2, Memory: 4 << 20, Regime: sched.Timed,
		Disks: []kernel.Disk{{Name: "vda", Size: 4096}},
	})
	defer m.Shutdown()
	copy(m.DiskData("vda"), bytes.Repeat([]byte("disk"), 128))
	out := m.Run(func(t *kernel.Thread) {
		fd, _ := t.Open("/dev/vda", fs.ORdonly|fs.ODirect)
		page := t.MustMmap(4096)
		t.Fill(page, 4096, '.')
		reader := t.Go("reader", func(r *kernel.Thread) {
			n, err := r.Pread(fd, page, 512, 0)
			fmt.Printf("read returned %d, %v: %s\n", n, err, r.Bytes(page, 8))
		})
		t.Usleep(20) // the transfer takes 50 us; now it is in flight
		pid, _ := t.Fork(func(c *kernel.Thread) { c.Usleep(1000) })
		t.Store8(page+2048, 'x') // the page is copied
		_ = t.Join(reader)
		_, _, _ = t.Wait(pid)
	})
	fmt.Println("outcome:", out.Reason)
	// Output:
	// read returned 512, <nil>: ........
	// outcome: quiet
}

// Memory ordering between threads is the machine's; a mutex lives in emulated memory,
// like a C program's.
func ExampleMutex() {
	m, _ := kernel.Boot(kernel.Options{CPUs: 4, Memory: 4 << 20})
	defer m.Shutdown()
	m.Run(func(t *kernel.Thread) {
		addr := t.MustMmap(4096)
		mu, counter := kernel.Mutex{Addr: addr}, addr+64
		var workers []*kernel.Thread
		for range 4 {
			workers = append(workers, t.Go("worker", func(w *kernel.Thread) {
				for range 100 {
					mu.Lock(w)
					w.Store64(counter, w.Load64(counter)+1)
					mu.Unlock(w)
				}
			}))
		}
		for _, w := range workers {
			_ = t.Join(w)
		}
		fmt.Println(t.Load64(counter))
	})
	// Output: 400
}

// A signal handler repairs a fault, or gives the access up.
func ExampleThread_Sigaction() {
	m, _ := kernel.Boot(kernel.Options{Memory: 4 << 20})
	defer m.Shutdown()
	m.Run(func(t *kernel.Thread) {
		_ = t.Sigaction(kernel.SIGSEGV, func(h *kernel.Thread, i kernel.SigInfo) {
			fmt.Printf("%v at %#x\n", i.Signal, i.Addr)
			i.Skip()
		})
		fmt.Println(t.Load64(0x1000))
	})
	// Output:
	// SIGSEGV at 0x1000
	// 0
}
