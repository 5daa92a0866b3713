package trace

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWriteVMStat(t *testing.T) {
	tr := New(2, Options{})
	tr.CPU(0).Add(NrFreePages, 1000)
	tr.CPU(1).Sub(NrFreePages, 1)
	tr.CPU(0).Dec(NrDirty)
	tr.CPU(1).Add(PGFault, 42)
	tr.CPU(1).Inc(EmuIPISent)

	var b strings.Builder
	require.NoError(t, WriteVMStat(&b, tr.Snapshot(), true))
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	require.Len(t, lines, NumCounters)
	form := regexp.MustCompile(`^[a-z0-9_]+ [0-9]+$`)
	for _, l := range lines {
		assert.Regexp(t, form, l)
	}
	assert.Equal(t, "nr_free_pages 999", lines[0])
	assert.Contains(t, lines, "nr_dirty 0", "a total below zero is shown as zero")
	assert.Contains(t, lines, "pgfault 42")
	assert.Contains(t, lines, "emu_ipi_sent 1")

	b.Reset()
	require.NoError(t, WriteVMStat(&b, tr.Snapshot(), false))
	assert.NotContains(t, b.String(), "emu_")
	assert.True(t, strings.HasSuffix(b.String(), "unevictable_pgs_mlockfreed 0\n"))

	b.Reset()
	require.NoError(t, WriteVMStat(&b, []uint64{5}, true))
	assert.Equal(t, "nr_free_pages 5\n", b.String())
}

var testNames = Namer{
	Task:    func(n uint64) string { return []string{"", "writer", "reader"}[min(n, 2)] },
	Syscall: func(nr uint64) string { return map[uint64]string{0: "read", 57: "fork"}[nr] },
	Vector:  func(v uint64) string { return map[uint64]string{0: "flush0"}[v] },
	Mark:    func(c uint64) string { return map[uint64]string{1: "race"}[c] },
	Oops:    func(n uint64) string { return map[uint64]string{2: "bad page"}[n] },
	Lock:    func(obj uint64) string { return map[uint64]string{7: "mmap_sem 1"}[obj] },
}

func TestWriteFtrace(t *testing.T) {
	events := []Event{
		{Time: 1500, Kind: EvSyscallEnter, Task: 1, A: 57, B: 0x10},
		{Time: 2000, Kind: EvIRQEnter, CPU: 1, Task: 2, A: 0},
		{Time: 2500, Kind: EvTLBFlush, CPU: 1, Task: 2, A: TLBAll, B: FlushRemoteShootdown},
		{Time: 2600, Kind: EvIRQExit, CPU: 1, Task: 2, A: 0},
		{Time: 3000, Kind: EvPagePut, Task: 1, A: 0x12, B: 1, C: ^uint64(0)},
		{Time: 3000, Kind: EvSchedSwitch, Task: 1, A: 1, B: 0, C: 2},
		{Time: 4000, Kind: EvBioComplete, CPU: DeviceCPU, A: 1, B: 8, C: 1024 | BioWrite | BioError},
		{Time: 5e9, Kind: EvMark, A: 1, B: 2, C: 3},
		{Time: 5e9, Kind: EvLockWait, Task: 1, A: 7, B: LockSpin | LockWrite},
		{Time: 5e9, Kind: EvLockGot, Task: 1, A: 7, B: ^uint64(3)},
		{Time: 5e9, Kind: EvSchedWake, Task: 1, A: 2, B: 1},
		{Time: 5e9, Kind: EvOops, Task: 1, A: 2},
		{Time: 5e9, Kind: NumEventKinds},
	}
	var b strings.Builder
	require.NoError(t, WriteFtrace(&b, events, View{Names: testNames, Dropped: 3}))
	var body []string
	for l := range strings.Lines(b.String()) {
		if !strings.HasPrefix(l, "#") {
			body = append(body, strings.TrimSuffix(l, "\n"))
		}
	}
	assert.True(t, strings.HasPrefix(b.String(), "# tracer: nop\n"))
	assert.Contains(t, b.String(), "entries-in-buffer/entries-written: 13/16   #P:2")
	assert.Equal(t, []string{
		"          writer-1     [000] ....     0.000001: sys_enter: NR 57 (10, 0)",
		"          reader-2     [001] d.h.     0.000002: irq_handler_entry: irq=0 name=flush0",
		"          reader-2     [001] d.h.     0.000002: tlb_flush: pages:-1 reason:remote shootdown (1)",
		"          reader-2     [001] d.h.     0.000002: irq_handler_exit: irq=0 ret=handled",
		"          writer-1     [000] ....     0.000003: page_ref_mod: pfn=0x12 flags= count=1 mapcount=-1 mapping=0 mt=0 val=-1",
		"          writer-1     [000] ....     0.000003: sched_switch: prev_comm=writer prev_pid=1 prev_prio=120 prev_state=D ==> next_comm=swapper next_pid=0 next_prio=120",
		"        <device>-0     [002] ....     0.000004: block_rq_complete: 8,0 W () 8 + 2 [-5]",
		"          <idle>-0     [000] ....     5.000000: mark: code=race a=2 b=3",
		"          writer-1     [000] ....     5.000000: contention_begin: mmap_sem 1 (flags=SPIN|WRITE)",
		"          writer-1     [000] ....     5.000000: contention_end: mmap_sem 1 (ret=-4)",
		"          writer-1     [000] ....     5.000000: sched_wakeup: comm=reader pid=2 prio=120 target_cpu=001",
		"          writer-1     [000] ....     5.000000: oops: what=bad page",
	}, body)
}

// Every kind prints on one line, whatever its numbers are.
func TestWriteFtraceAllKinds(t *testing.T) {
	var events []Event
	for i := EvNone + 1; i < NumEventKinds; i++ {
		events = append(events, Event{Kind: i, A: 1 << 40, B: 1 << 40, C: 1 << 40})
	}
	var b strings.Builder
	require.NoError(t, WriteFtrace(&b, events, View{}))
	form := regexp.MustCompile(`^ *\S+-\d+ +\[\d{3}\] \S{4} +\d+\.\d{6}: [a-z_]+: .+$`)
	n := 0
	for l := range strings.Lines(b.String()) {
		if l[0] != '#' {
			assert.Regexp(t, form, strings.TrimSuffix(l, "\n"))
			n++
		}
	}
	assert.EqualValues(t, NumEventKinds-1, n)
}

func TestAppendText(t *testing.T) {
	n := testNames
	text := func(e Event) string { return string(n.AppendText(nil, e)) }
	assert.Equal(t, "cpu1 reader: cow_copy address=0x7000 old_pfn=0x12 new_pfn=0x40",
		text(Event{Kind: EvCOWCopy, CPU: 1, Task: 2, A: 0x7000, B: 0x12, C: 0x40}))
	assert.Equal(t, "device: dma_chunk pfn=0x12 offset=512 direction=to-memory",
		text(Event{Kind: EvDMA, CPU: DeviceCPU, A: 0x12, B: 512}))
	assert.Equal(t, "cpu0 swapper: gup_fast_begin address=0x1000 pages=2 write=true",
		text(Event{Kind: EvGUPFastBegin, A: 0x1000, B: 2, C: 1}))
	assert.Equal(t, "cpu0 writer: sys_exit nr=fork ret=-4",
		text(Event{Kind: EvSyscallExit, Task: 1, A: 57, B: ^uint64(3)}))
	assert.Equal(t, "cpu0 swapper: tlb_flush address=all reason=local mm shootdown dropped=9",
		text(Event{Kind: EvTLBFlush, A: TLBAll, B: FlushLocalMMShootdown, C: 9}))
	assert.Equal(t, "cpu0 swapper: block_rq_issue bio=3 sector=8 bytes=4096 write",
		text(Event{Kind: EvBioSubmit, A: 3, B: 8, C: 4096 | BioWrite}))
	assert.Equal(t, "cpu0 swapper: page_pin pfn=0x12 pages=4 kind=longterm",
		text(Event{Kind: EvPin, A: 0x12, B: 4, C: PinLongterm}))
	assert.Equal(t, "cpu0 swapper: event? ", text(Event{Kind: NumEventKinds}))
	assert.Equal(t, "task9", (&Namer{}).TaskName(9))
}

func TestViewTime(t *testing.T) {
	v := View{Hz: 2_400_000_000}
	assert.EqualValues(t, 1000, v.ns(Event{Time: 2400}))
	assert.EqualValues(t, uint64(5)<<56, v.ns(Event{Time: 12 << 56}), "no overflow")
	v = View{Steps: true}
	assert.EqualValues(t, 3000, v.ns(Event{Time: 77, Seq: 3}))
	v = View{Hz: 1}
	assert.EqualValues(t, ^uint64(0), v.ns(Event{Time: 1 << 60}), "saturates")
}
