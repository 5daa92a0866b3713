// Package vmtest is for authors of Go tests that need a virtual-memory system to test
// against.
//
// New boots a machine for one test and checks, when the test ends, that every invariant
// of the memory manager holds and that nothing leaks:
//
//	func TestForkSeesOldBytes(t *testing.T) {
//		vm := vmtest.New(t, kernel.Options{CPUs: 2})
//		vm.Run(func(th *kernel.Thread) {
//			p := th.MustMmap(4096)
//			th.Store64(p, 1)
//			pid, err := th.Fork(func(c *kernel.Thread) {
//				if got := c.Load64(p); got != 1 {
//					t.Errorf("child sees %d", got)
//				}
//			})
//			if err != nil {
//				t.Fatal(err)
//			}
//			th.Store64(p, 2)
//			th.Wait(pid)
//		})
//	}
//
// EverySchedule runs the same kind of function under many schedules of the free regime.
// When one fails it prints the command that runs this schedule alone:
//
//	COWLAB_SCHEDULE=cl1.TestMine.stock.r.1f3a.9fnzn go test -run '^TestMine$' .
//
// With COWLAB_HTML=race.html besides, the schedule is written to that file as a page for
// browsers, with page tables, struct pages, TLBs and bytes at each step.
//
// User functions run on the machine's own coroutines, not on the test's goroutine. They
// may call any method of testing.T, Fatal included: that ends the machine, and then the
// test. They must not block in Go (on channels, mutexes, time.Sleep): the machine would
// stand still, which is reported after a while (kernel.Options.Watchdog), with the name
// of the task.
//
// # Accesses that fail
//
// A load or store without a valid mapping raises a signal, as in C. Without a handler it
// kills the process, and VM.Run fails the test with the signal, the address and the line
// of the program. A handler (Thread.Sigaction) sees it and may Skip the access. A test that
// expects it is shortest with the forms that return an error:
//
//	_, err := th.TryLoad64(0)
//	var sig *kernel.SigError
//	errors.As(err, &sig) // sig.Sig == kernel.SIGSEGV, sig.Addr == 0
package vmtest
