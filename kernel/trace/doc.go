// Package trace holds what a machine counts and what it remembers.
//
// # Counters
//
// A [Counter] names a number that Linux 2.6.29 shows in /proc/vmstat, or one
// of our own under the prefix emu_. Linux keeps per-CPU vm_event_states and
// per-zone vm_stat words (Linux 2.6.29 include/linux/vmstat.h:count_vm_event,
// mm/vmstat.c:__mod_zone_page_state); we keep one plain word for each CPU and
// counter, written by the CPU's owner only, and add them up when somebody asks:
//
//	Trace ──┬── CPU 0   words[pgfault]=12 words[nr_dirty]= 3 ...   ring of events
//	        ├── CPU 1   words[pgfault]= 7 words[nr_dirty]=-1 ...   ring of events
//	        └── device  words[...]                                 ring of events
//	Sum(pgfault)  = 19
//	Gauge(nr_dirty) = 2        a page dirtied on CPU 0 was cleaned on CPU 1
//
// Counters come in two kinds. An event counter (pgfault) only grows. A gauge
// (nr_dirty, see [Counter.IsGauge]) goes up and down; the share of a single CPU may be
// negative, so gauges are summed as signed words.
//
// # Events
//
// An event is a time, a task and three integers under an [EventKind]. It holds
// no strings and no pointers: names come from the kind's table and from a
// [Namer] when somebody reads the trace. Recording is off unless asked for, and
// then [CPU.Event] is one branch that is inlined into its caller.
//
// Each CPU owns a ring of fixed size. A full ring forgets its oldest event and
// counts it as dropped ([Trace.Dropped]). [Trace.Events] merges the rings by
// (time, CPU, sequence). Clocks of different CPUs need not agree in a machine
// that explores interleavings; there [Options.Serial] numbers the events across
// all CPUs, and the merge follows the order of execution instead.
//
// # Consumers
//
// Everything that is shown is a function of counters or of []Event:
// [WriteVMStat] prints the text of /proc/vmstat, [WriteFtrace] the text of
// trace_pipe, and [WritePerfetto] a timeline for ui.perfetto.dev with a track
// for each CPU, slices that nest, and arrows from an interrupt's sender to its
// receiver and from a bio's submission to its completion. Where the ring has
// wrapped, an end without a beginning is shown as a moment.
//
// # Who may touch what
//
// A CPU's words and ring belong to whoever runs that CPU, and the device's to
// whoever runs device events. Sums may be taken at any moment, as in Linux, and
// are then approximate; Events, Dropped, Enable and Reset want the machine stopped.
//
// The package imports nothing of this module.
package trace
