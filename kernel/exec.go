package kernel

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
)

// The layout of a new address space: a small static program without randomisation.
//
//	0x400000  text and data (nothing is mapped)
//	0x601000  brk, upwards
//	MmapBase  mmap, downwards
//	StackTop  stack, downwards
const (
	// heapStart is where brk begins: behind the data of a program linked at
	// 0x400000.
	heapStart = 0x601000
	// stackPages is how much of the stack exec maps at once: a page for the
	// arguments and EXTRA_STACK_VM_PAGES.
	stackPages = 21
)

// exec gives the first thread of a new process its address space, as execve does for
// init. It reports whether there was memory for it; otherwise the process is
// ending.
func (t *Thread) exec() bool {
	task, m := t.task, t.m
	space, err := m.sys.NewMM(task)
	if err == nil {
		space.StackTop = x86.TaskSize
		space.StartBrk, space.Brk = heapStart, heapStart
		space.Owner = t.p
		space.PickMmapLayout()
		if !m.opts.NoStack {
			err = t.setupStack(space)
		}
		if err != nil {
			space.MMPut(task)
		}
	}
	if err != nil {
		t.outOfMemory()
		task.User = false
		t.groupExit(KilledBy(SIGKILL))
		return false
	}
	t.p.space = space
	space.ActivateMM(task)
	task.C.Trace.Inc(trace.EmuExec)
	return true
}

// setupStack maps the stack (setup_arg_pages).
func (t *Thread) setupStack(space *mm.MM) error {
	const size = stackPages * x86.PageSize
	space.MmapSem.DownWrite(t.task)
	_, err := mm.DoMmap(t.task, space, mm.MmapRequest{
		Addr: space.StackTop - size, Len: size, Prot: mm.ProtRead | mm.ProtWrite,
		Flags: mm.MapPrivate | mm.MapAnonymous | mm.MapFixed | mm.MapGrowsDown,
	})
	space.MmapSem.UpWrite(t.task)
	return err
}
