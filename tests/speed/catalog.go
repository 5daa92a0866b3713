package speed

import "time"

// The rules' short forms, as the table of goals writes them.

func native(f float64) Rule { return Rule{Factor: f, Of: Native} }
func floor(f float64) Rule  { return Rule{Factor: f, Of: Floor} }
func ns(bound float64) Rule { return Rule{Factor: bound} }

// memcpy bounds the speed from below by that of C's memcpy.
func memcpy(f float64) Rule { return Rule{AtLeast: true, Factor: f, Of: Native, Name: "memcpy"} }

// oneCPU bounds the speed from below by that of one CPU.
func oneCPU(f float64) Rule { return Rule{AtLeast: true, Factor: f, Of: Base, Name: "one CPU"} }

// oneWorker bounds the speed from below by that of a search on one host thread.
func oneWorker(f float64) Rule {
	return Rule{AtLeast: true, Factor: f, Of: Base, Name: "one worker"}
}

func perSecond(f float64) Rule {
	return Rule{AtLeast: true, Factor: f, Unit: "schedules/s"}
}

func value(f float64, unit string) Rule { return Rule{Factor: f, Unit: unit} }

// goal pairs the foundation's single rule with the final ones.
func goal(foundation Rule, final ...Rule) Goal {
	return Goal{Foundation: []Rule{foundation}, Final: final}
}

// Catalog returns every row with its native side, its floor and its goals; the
// emulated sides are for the caller to Attach. The floors may be nil, which
// leaves their column empty.
//
// What the emulated side of a row has to do is what native/*.c does for it:
// the same number of pages in a batch and the same state before. Setting up and
// tidying are not timed on any side.
func Catalog(f *Floors) []Op {
	ops := append(memoryRows(), processRows()...)
	ops = append(ops, machineRows()...)
	if f == nil {
		return ops
	}
	loops := f.loops()
	for i := range ops {
		ops[i].Floor = loops[ops[i].Name]
	}
	return ops
}

// loops returns the floors by row. Rows that are missing have none: no single
// loop is their minimum.
func (f *Floors) loops() map[string]func(n int) time.Duration {
	return map[string]func(n int) time.Duration{
		"load-hit":       f.Load,
		"store-hit":      f.Store,
		"copy-1m":        f.CopyMiB,
		"walk":           f.Walk,
		"fault-minor":    f.Clear,
		"populate":       f.Clear,
		"cow-copy":       f.Copy,
		"cow-reuse":      f.Reuse,
		"fork-page":      f.ForkPages,
		"exit-page":      f.ExitPages,
		"munmap-page":    f.UnmapPages,
		"mprotect-page":  f.Protect,
		"gup-fast":       f.Pin,
		"direct-1m":      f.Copy,
		"tlb-flush-2":    func(n int) time.Duration { return f.Flush(n, 2) },
		"tlb-flush-4":    func(n int) time.Duration { return f.Flush(n, 4) },
		"switch":         f.Switch,
		"swap-out":       f.Copy,
		"swap-in":        f.Copy,
		"swap-in-random": f.Copy,
		"scale-fault":    f.ClearTogether,
		"scale-gup":      f.PinTogether,
	}
}

// memoryRows are the accesses and the faults.
func memoryRows() []Op {
	return []Op{
		{
			Name: "load-hit", Title: "load, TLB hit, 8 bytes", Unit: "load", N: 2_000_000,
			Native: NativeSpec{Probe: "load"},
			Goal:   goal(ns(8), floor(1.25)),
		},
		{
			Name: "store-hit", Title: "store, TLB hit, 8 bytes", Unit: "store", N: 2_000_000,
			Native: NativeSpec{Probe: "store"},
			Goal:   goal(ns(8), floor(1.25)),
		},
		{
			Name: "copy-1m", Title: "buffer copy into user memory, 1 MiB", Unit: "MiB", N: 100,
			Native: NativeSpec{Probe: "copy"},
			Goal:   goal(memcpy(0.5), memcpy(0.85)),
		},
		{
			Name: "walk", Title: "page walk on a TLB miss, 4 levels warm", Unit: "walk", N: 1_000_000,
			Goal: goal(ns(40), ns(15)),
			Note: "native cannot be told from a load",
		},
		{
			Name: "fault-minor", Title: "minor fault, first touch", Unit: "page", N: 16384,
			Native: NativeSpec{Probe: "fault"},
			Goal:   goal(native(1), floor(1.3), native(0.45)),
		},
		{
			Name: "populate", Title: "populate", Unit: "page", N: 16384,
			Native: NativeSpec{Probe: "populate"},
			Goal:   goal(native(1), floor(1.15)),
		},
		{
			Name: "cow-copy", Title: "COW fault with copy", Unit: "page", N: 8192,
			Native: NativeSpec{Probe: "cow-copy"},
			Goal:   goal(native(1), floor(1.35), native(0.4)),
		},
		{
			Name: "cow-reuse", Title: "COW fault, reuse", Unit: "page", N: 8192,
			Native: NativeSpec{Probe: "cow-reuse"},
			Goal:   goal(native(0.5), native(0.15)),
		},
	}
}

// processRows are the calls that go through page tables.
func processRows() []Op {
	return []Op{
		{
			Name: "fork-fixed", Title: "fork, fixed part", Unit: "fork", N: 30,
			Native: NativeSpec{Probe: "fork-fixed"},
			Goal:   goal(native(0.5), native(0.1)),
			Note:   "native is a whole fork of a small process",
		},
		{
			Name: "fork-page", Title: "fork, per anonymous page", Unit: "page", N: 100_000,
			Native: NativeSpec{Probe: "fork-page"},
			Goal:   goal(native(1.5), floor(1.3), native(0.7)),
			Note:   "native is the slope between 10,000 and 100,000 pages",
		},
		{
			Name: "exit-page", Title: "exit", Unit: "page", N: 16384,
			Native: NativeSpec{Probe: "exit"},
			Goal:   goal(native(1), native(0.4)),
			Note:   "pages of the process's own; native is a slope",
		},
		{
			Name: "munmap-page", Title: "munmap of touched pages", Unit: "page", N: 16384,
			Native: NativeSpec{Probe: "munmap"},
			Goal:   goal(native(1), native(0.4)),
		},
		{
			Name: "mprotect-page", Title: "mprotect RW to R", Unit: "page", N: 16384,
			Native: NativeSpec{Probe: "mprotect"},
			Goal:   goal(native(1.5), native(0.6)),
		},
		{
			Name: "mremap-page", Title: "mremap move, unaligned", Unit: "page", N: 16384,
			Native: NativeSpec{Probe: "mremap"},
			Goal:   goal(native(3), native(1.2)),
		},
		{
			Name: "gup-fast", Title: "gup-fast", Unit: "page", N: 24000,
			Native: NativeSpec{Probe: "vmsplice"},
			Goal:   goal(native(1), floor(1.4)),
			Note:   "native stand-in: the slope of vmsplice between 16 and 240 pages",
		},
		{
			Name: "gup-slow", Title: "gup-slow, present", Unit: "page", N: 16384,
			Native: NativeSpec{Probe: "gup-slow"},
			Goal:   goal(ns(150), ns(60)),
			Note:   "native stand-in: process_vm_readv, which copies the pages as well",
		},
		{
			Name: "direct-1m", Title: "direct read, 1 MiB, CPU part", Unit: "page", N: 2048,
			Native: NativeSpec{Probe: "direct-1m"},
			Goal:   goal(native(2), native(0.7)),
			Note:   "the emulated side goes without the device's copy, which is the floor column",
		},
		{
			Name: "direct-4k", Title: "direct read, 4 KiB, whole", Unit: "read", N: 100,
			Native: NativeSpec{Probe: "direct-4k"},
			Goal:   goal(ns(10_000), ns(3_000)),
			Note:   "native waits for the device",
		},
	}
}

// machineRows are CPUs, tasks, swap, the explorer and what the machine weighs.
func machineRows() []Op {
	const outNote = "native does not wait for its device; the emulated side waits for its own, which takes no time"
	const inNote = "native waits for its device; the emulated one takes no time"
	return []Op{
		{
			Name: "tlb-flush-2", Title: "TLB flush of one remote CPU", Unit: "flush", N: 1000,
			Native: NativeSpec{Probe: "tlb-flush"},
			Goal:   goal(native(1), ns(700)),
			Note:   "native: mprotect with another CPU in the same memory, less without",
		},
		{
			Name: "tlb-flush-4", Title: "the same with 4 CPUs", Unit: "flush", N: 500,
			Goal: goal(ns(100_000), ns(25_000)),
			Note: "meant for fewer cores than CPUs",
		},
		{
			Name: "switch", Title: "futex round trip of two threads on one CPU", Unit: "round trip", N: 5000,
			Native: NativeSpec{Probe: "futex"},
			Goal:   goal(native(1), native(0.2)),
			Note:   "the floor is a coroutine entered and left",
		},
		{
			Name: "swap-out", Title: "swap out", Unit: "page", N: 4096,
			Native: NativeSpec{Probe: "swap-out"},
			Goal:   goal(native(1), native(0.6)), Note: outNote,
		},
		{
			Name: "swap-in", Title: "swap in, sequential", Unit: "page", N: 4096,
			Native: NativeSpec{Probe: "swap-in"},
			Goal:   goal(native(1), native(0.6)), Note: inNote,
		},
		{
			Name: "swap-in-random", Title: "swap in, random", Unit: "page", N: 4096,
			Native: NativeSpec{Probe: "swap-in-random"},
			Goal:   goal(native(1), native(0.6)), Note: inNote,
		},
		{
			Name: "schedules", Title: "deterministic schedules, 2 CPUs, forkscrew, on one core", Unit: "schedule", N: 100,
			Goal: goal(perSecond(1000), perSecond(5000)),
		},
		{
			Name: "schedules-2", Title: "the same, two workers against one", Unit: "schedule", N: 400,
			Goal: goal(oneWorker(1.5), oneWorker(1.8)),
			Note: "n schedules in all, on two host threads and on one",
		},
		{
			Name: "scale-fault", Title: "minor faults, two emulated CPUs against one", Unit: "page", N: 16384,
			Goal: goal(oneCPU(1.5), oneCPU(1.8)),
			Note: "the sides take as long as both CPUs together for n units in all",
		},
		{
			Name: "scale-gup", Title: "gup-fast, two emulated CPUs against one", Unit: "page", N: 1 << 20,
			Goal: goal(oneCPU(1.5), oneCPU(1.8)),
			Note: "the sides take as long as both CPUs together for n units in all",
		},
		{
			Name: "struct-page", Title: "memory: struct page, per emulated page", Unit: "bytes",
			Goal: goal(value(64, "bytes"), value(64, "bytes")),
		},
		{
			Name: "host-memory", Title: "host memory beyond RAM touched, 1 GiB machine", Unit: "%",
			Goal: goal(value(10, "%"), value(4, "%")),
		},
	}
}
