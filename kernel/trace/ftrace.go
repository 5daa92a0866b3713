package trace

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
)

// WriteFtrace writes events as the text that trace_pipe gives:
//
//	reader-4     [001] d.h.     0.000012: tlb_flush: pages:1 reason:remote shootdown (1)
//
// It is a modern rendering: 2.6.29 had neither these trace points nor most of
// their fields. Where Linux has an event today, its name and format are used
// (tlb_flush, page_fault_user, page_ref_mod, block_rq_issue, block_rq_complete,
// sched_switch, sched_wakeup, signal_generate, ipi_entry, sys_enter ...), with
// the fields we do not have left at a neutral value; the rest are ours, as
// name=value. What importers do not know they drop, so this text is for grep,
// awk and habit; the picture is [WritePerfetto].
//
// Of the flags d and h are filled in (interrupts off, hard interrupt), from
// the events of interrupt entry and exit. Devices appear as a CPU after the last.
func WriteFtrace(w io.Writer, events []Event, v View) error {
	b := bufio.NewWriter(w)
	ncpu := v.cpus(events)
	fmt.Fprintf(b, "# tracer: nop\n#\n# entries-in-buffer/entries-written: %d/%d   #P:%d\n#\n",
		len(events), uint64(len(events))+v.Dropped, ncpu)
	b.WriteString("#        flags: d irqs-off, N need-resched, h hardirq, then preempt-depth\n")
	b.WriteString("#           TASK-PID     CPU#  flags  TIMESTAMP  FUNCTION\n")
	b.WriteString("#              | |         |   ||||      |         |\n")

	irq := make([]int, ncpu)
	var line []byte
	for _, e := range events {
		if e.Kind >= NumEventKinds || e.Kind == EvNone {
			continue
		}
		cpu, comm, flags := int(e.CPU), v.Names.TaskName(e.Task), "...."
		if e.CPU == DeviceCPU {
			cpu, comm = ncpu, "<device>"
		} else {
			if e.Kind == EvIRQEnter {
				irq[cpu]++
			}
			if irq[cpu] > 0 {
				flags = "d.h."
			}
			if e.Kind == EvIRQExit && irq[cpu] > 0 {
				irq[cpu]--
			}
			if e.Task == 0 {
				comm = "<idle>"
			}
		}
		us := v.ns(e) / 1000
		fmt.Fprintf(b, "%16s-%-5d [%03d] %s %5d.%06d: %s: ", comm, e.Task, cpu, flags, us/1e6, us%1e6, e.Kind)
		line = v.ftraceArgs(line[:0], e)
		b.Write(append(line, '\n'))
	}
	return b.Flush()
}

// ftraceArgs appends the fields of e in the format of Linux' event of that
// name, or as name=value where Linux has none.
func (v *View) ftraceArgs(dst []byte, e Event) []byte {
	n := &v.Names
	switch e.Kind {
	case EvSyscallEnter:
		return fmt.Appendf(dst, "NR %d (%x, %x)", e.A, e.B, e.C)
	case EvSyscallExit:
		return fmt.Appendf(dst, "NR %d = %d", e.A, int64(e.B))
	case EvFaultEnter:
		return fmt.Appendf(dst, "address=0x%x ip=0x0 error_code=0x%x", e.A, e.B)
	case EvPageGet, EvPagePut:
		val := 1
		if e.Kind == EvPagePut {
			val = -1
		}
		return fmt.Appendf(dst, "pfn=0x%x flags= count=%d mapcount=%d mapping=0 mt=0 val=%d",
			e.A, e.B, int64(e.C), val)
	case EvPageAlloc:
		return fmt.Appendf(dst, "page=0 pfn=0x%x order=%d migratetype=0 gfp_flags=0x%x", e.A, e.B, e.C)
	case EvPageFree:
		return fmt.Appendf(dst, "page=0 pfn=0x%x order=%d", e.A, e.B)
	case EvTLBFlush:
		pages := int64(1)
		if e.A == TLBAll {
			pages = -1
		}
		reason := pick(flushReasons[:], e.B)
		return fmt.Appendf(dst, "pages:%d reason:%s (%d)", pages, reason, e.B)
	case EvIPISend:
		return append(n.value(fmt.Appendf(dst, "cpu=%d callsite=", e.A), fVector, e.B), " callback=0"...)
	case EvIPITake:
		return append(n.value(append(dst, '('), fVector, e.A), ')')
	case EvIRQEnter:
		return n.value(fmt.Appendf(dst, "irq=%d name=", e.A), fVector, e.A)
	case EvIRQExit:
		return fmt.Appendf(dst, "irq=%d ret=handled", e.A)
	case EvBioSubmit:
		return fmt.Appendf(dst, "8,0 %s %d () %d + %d [%s]", rwbs(e.C), BioBytes(e.C), e.B, BioBytes(e.C)/512,
			n.TaskName(e.Task))
	case EvBioComplete:
		errno := 0
		if e.C&BioError != 0 {
			errno = -5
		}
		return fmt.Appendf(dst, "8,0 %s () %d + %d [%d]", rwbs(e.C), e.B, BioBytes(e.C)/512, errno)
	case EvSchedSwitch:
		return fmt.Appendf(dst, "prev_comm=%s prev_pid=%d prev_prio=120 prev_state=%s ==> "+
			"next_comm=%s next_pid=%d next_prio=120",
			n.TaskName(e.A), e.A, taskState(e.C), n.TaskName(e.B), e.B)
	case EvSchedWake:
		return fmt.Appendf(dst, "comm=%s pid=%d prio=120 target_cpu=%03d", n.TaskName(e.A), e.A, e.B)
	case EvLockWait:
		return append(n.value(append(n.value(dst, fLock, e.A), " (flags="...), fLockHow, e.B), ')')
	case EvLockGot:
		return fmt.Appendf(n.value(dst, fLock, e.A), " (ret=%d)", int64(e.B))
	case EvTaskStart:
		return fmt.Appendf(dst, "comm=%s pid=%d child_comm=%s child_pid=%d",
			n.TaskName(e.B), e.B, n.TaskName(e.A), e.A)
	case EvTaskExit:
		return fmt.Appendf(dst, "comm=%s pid=%d prio=120", n.TaskName(e.A), e.A)
	case EvSignal:
		return fmt.Appendf(dst, "sig=%d errno=0 code=%d comm=%s pid=%d grp=0 res=0",
			e.B, int64(e.C), n.TaskName(e.A), e.A)
	}
	return n.AppendArgs(dst, e)
}

func rwbs(c uint64) string {
	if c&BioWrite != 0 {
		return "W"
	}
	return "R"
}

// taskState prints a state as sched_switch does.
func taskState(s uint64) string {
	switch s {
	case 0:
		return "R"
	case 1:
		return "S"
	case 2:
		return "D"
	}
	return strconv.FormatUint(s, 16)
}
