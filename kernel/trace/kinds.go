package trace

import "strconv"

// Phase says whether an event opens a slice of time, closes one, or is a moment.
type Phase uint8

// The phases.
const (
	Instant Phase = iota
	Begin
	End
)

// format says how an argument is printed and which Namer knows its name.
type format uint8

const (
	fNone format = iota
	fHex
	fDec
	fSigned
	fBool
	fTask
	fSyscall
	fVector
	fLock
	fMark
	fReason
	fForkAction
	fDirection
	fBytes
	fTLBAddr
	fPinKind
	fLockHow
	fOops
)

type arg struct {
	name string
	how  format
}

// kind describes one EventKind.
type kind struct {
	name  string    // as ftrace prints it
	slice string    // what a begin and its end are called together
	phase Phase     // of the event
	opens EventKind // the begin that an end closes
	args  [3]arg    // A, B, C
}

var kinds = [NumEventKinds]kind{
	EvNone: {name: "none"},
	EvSyscallEnter: {name: "sys_enter", slice: "syscall", phase: Begin,
		args: [3]arg{{"nr", fSyscall}, {"arg0", fHex}, {"arg1", fHex}}},
	EvSyscallExit: {name: "sys_exit", slice: "syscall", phase: End, opens: EvSyscallEnter,
		args: [3]arg{{"nr", fSyscall}, {"ret", fSigned}}},
	EvFaultEnter: {name: "page_fault_user", slice: "page fault", phase: Begin,
		args: [3]arg{{"address", fHex}, {"error_code", fHex}}},
	EvFaultExit: {name: "page_fault_done", slice: "page fault", phase: End, opens: EvFaultEnter,
		args: [3]arg{{"address", fHex}, {"error_code", fHex}, {"result", fHex}}},
	EvForkBegin: {name: "fork_begin", slice: "fork", phase: Begin,
		args: [3]arg{{"mm", fDec}, {"child_mm", fDec}}},
	EvForkEnd: {name: "fork_end", slice: "fork", phase: End, opens: EvForkBegin,
		args: [3]arg{{"mm", fDec}, {"child_mm", fDec}, {"ret", fSigned}}},
	EvForkPTE:  {name: "fork_pte", args: [3]arg{{"address", fHex}, {"pfn", fHex}, {"action", fForkAction}}},
	EvCOWCopy:  {name: "cow_copy", args: [3]arg{{"address", fHex}, {"old_pfn", fHex}, {"new_pfn", fHex}}},
	EvCOWReuse: {name: "cow_reuse", args: [3]arg{{"address", fHex}, {"pfn", fHex}, {"count", fDec}}},
	EvGUPFastBegin: {name: "gup_fast_begin", slice: "gup_fast", phase: Begin,
		args: [3]arg{{"address", fHex}, {"pages", fDec}, {"write", fBool}}},
	EvGUPFastEnd: {name: "gup_fast_end", slice: "gup_fast", phase: End, opens: EvGUPFastBegin,
		args: [3]arg{{"address", fHex}, {"got", fSigned}}},
	EvGUPSlowBegin: {name: "gup_begin", slice: "get_user_pages", phase: Begin,
		args: [3]arg{{"address", fHex}, {"pages", fDec}, {"write", fBool}}},
	EvGUPSlowEnd: {name: "gup_end", slice: "get_user_pages", phase: End, opens: EvGUPSlowBegin,
		args: [3]arg{{"address", fHex}, {"got", fSigned}}},
	EvPageGet:   {name: "page_ref_mod", args: [3]arg{{"pfn", fHex}, {"count", fDec}, {"mapcount", fSigned}}},
	EvPagePut:   {name: "page_ref_mod", args: [3]arg{{"pfn", fHex}, {"count", fDec}, {"mapcount", fSigned}}},
	EvPageAlloc: {name: "mm_page_alloc", args: [3]arg{{"pfn", fHex}, {"order", fDec}, {"gfp_flags", fHex}}},
	EvPageFree:  {name: "mm_page_free", args: [3]arg{{"pfn", fHex}, {"order", fDec}}},
	EvPageCopyBegin: {name: "copy_page_begin", slice: "copy page", phase: Begin,
		args: [3]arg{{"to_pfn", fHex}, {"from_pfn", fHex}}},
	EvPageCopyEnd: {name: "copy_page_end", slice: "copy page", phase: End, opens: EvPageCopyBegin,
		args: [3]arg{{"to_pfn", fHex}, {"from_pfn", fHex}}},
	EvPin:       {name: "page_pin", args: [3]arg{{"pfn", fHex}, {"pages", fDec}, {"kind", fPinKind}}},
	EvUnpin:     {name: "page_unpin", args: [3]arg{{"pfn", fHex}, {"pages", fDec}, {"kind", fPinKind}}},
	EvPTESet:    {name: "pte_set", args: [3]arg{{"address", fHex}, {"old", fHex}, {"new", fHex}}},
	EvTLBFlush:  {name: "tlb_flush", args: [3]arg{{"address", fTLBAddr}, {"reason", fReason}, {"dropped", fDec}}},
	EvIPISend:   {name: "ipi_send_cpu", args: [3]arg{{"cpu", fDec}, {"vector", fVector}, {"flow", fDec}}},
	EvIPITake:   {name: "ipi_entry", args: [3]arg{{"vector", fVector}, {"sender", fDec}, {"flow", fDec}}},
	EvIPIAck:    {name: "ipi_ack", args: [3]arg{{"sender", fDec}, {"vector", fVector}, {"flow", fDec}}},
	EvIRQEnter:  {name: "irq_handler_entry", slice: "irq", phase: Begin, args: [3]arg{{"irq", fVector}}},
	EvIRQExit:   {name: "irq_handler_exit", slice: "irq", phase: End, opens: EvIRQEnter, args: [3]arg{{"irq", fVector}}},
	EvBioSubmit: {name: "block_rq_issue", args: [3]arg{{"bio", fDec}, {"sector", fDec}, {"bytes", fBytes}}},
	EvBioComplete: {name: "block_rq_complete", args: [3]arg{{"bio", fDec}, {"sector", fDec},
		{"bytes", fBytes}}},
	EvDMA:         {name: "dma_chunk", args: [3]arg{{"pfn", fHex}, {"offset", fDec}, {"direction", fDirection}}},
	EvSchedSwitch: {name: "sched_switch", args: [3]arg{{"prev", fTask}, {"next", fTask}, {"prev_state", fDec}}},
	EvSchedWake:   {name: "sched_wakeup", args: [3]arg{{"task", fTask}, {"target_cpu", fDec}}},
	EvLockWait: {name: "contention_begin", slice: "lock wait", phase: Begin,
		args: [3]arg{{"lock", fLock}, {"flags", fLockHow}}},
	EvLockGot: {name: "contention_end", slice: "lock wait", phase: End, opens: EvLockWait,
		args: [3]arg{{"lock", fLock}, {"ret", fSigned}}},
	EvTaskStart: {name: "sched_process_fork", args: [3]arg{{"child", fTask}, {"parent", fTask}}},
	EvTaskExit:  {name: "sched_process_exit", args: [3]arg{{"task", fTask}, {"code", fSigned}}},
	EvSignal:    {name: "signal_generate", args: [3]arg{{"task", fTask}, {"sig", fDec}, {"code", fSigned}}},
	EvReclaimBegin: {name: "mm_vmscan_reclaim_begin", slice: "reclaim", phase: Begin,
		args: [3]arg{{"order", fDec}, {"gfp_flags", fHex}}},
	EvReclaimEnd: {name: "mm_vmscan_reclaim_end", slice: "reclaim", phase: End, opens: EvReclaimBegin,
		args: [3]arg{{"nr_reclaimed", fDec}, {"nr_scanned", fDec}}},
	EvSwapIn:    {name: "swap_in", args: [3]arg{{"pfn", fHex}, {"entry", fHex}, {"address", fHex}}},
	EvSwapOut:   {name: "swap_out", args: [3]arg{{"pfn", fHex}, {"entry", fHex}}},
	EvZap:       {name: "zap", args: [3]arg{{"address", fHex}, {"pages", fDec}}},
	EvMprotect:  {name: "mprotect", args: [3]arg{{"address", fHex}, {"pages", fDec}}},
	EvMremap:    {name: "mremap", args: [3]arg{{"address", fHex}, {"pages", fDec}, {"to", fHex}}},
	EvKSM:       {name: "ksm_merge", args: [3]arg{{"pfn", fHex}, {"into_pfn", fHex}, {"address", fHex}}},
	EvKSMBreak:  {name: "ksm_break", args: [3]arg{{"address", fHex}, {"pfn", fHex}}},
	EvMMUNotify: {name: "mmu_notifier", args: [3]arg{{"start", fHex}, {"end", fHex}, {"method", fDec}}},
	EvMark:      {name: "mark", args: [3]arg{{"code", fMark}, {"a", fDec}, {"b", fDec}}},
	EvOops:      {name: "oops", args: [3]arg{{"what", fOops}}},

	EvUnmap:      {name: "try_to_unmap", args: [3]arg{{"address", fHex}, {"pfn", fHex}, {"entry", fHex}}},
	EvKswapdWake: {name: "mm_vmscan_wakeup_kswapd", args: [3]arg{{"order", fDec}}},
	EvOOMKill:    {name: "mark_victim", args: [3]arg{{"pid", fDec}, {"score", fDec}, {"pages", fDec}}},
}

// String returns the kind's name. Get and put of a page are both page_ref_mod, as in Linux.
func (k EventKind) String() string {
	if k < NumEventKinds {
		return kinds[k].name
	}
	return "event?"
}

// Phase says whether the kind opens a slice, closes one, or neither.
func (k EventKind) Phase() Phase {
	if k < NumEventKinds {
		return kinds[k].phase
	}
	return Instant
}

// Opens returns the begin that this end closes, EvNone for other kinds.
func (k EventKind) Opens() EventKind {
	if k < NumEventKinds {
		return kinds[k].opens
	}
	return EvNone
}

// ArgNames returns the names of the arguments that the kind has, at most three.
func (k EventKind) ArgNames() []string {
	var names []string
	if k < NumEventKinds {
		for _, a := range kinds[k].args {
			if a.how != fNone {
				names = append(names, a.name)
			}
		}
	}
	return names
}

var flushReasons = [...]string{
	FlushOnTaskSwitch:     "flush on task switch",
	FlushRemoteShootdown:  "remote shootdown",
	FlushLocalShootdown:   "local shootdown",
	FlushLocalMMShootdown: "local mm shootdown",
	FlushRemoteSend:       "remote ipi send",
}

var forkActions = [...]string{
	ForkShared: "shared", ForkWrprotected: "write-protected", ForkCopied: "copied", ForkSwapped: "swap",
	ForkSkipped: "skipped", ForkRetried: "retried",
}

var pinKinds = [...]string{PinGet: "get", PinPin: "pin", PinLongterm: "longterm"}

var lockHows = [...]string{
	LockSpin: "SPIN", LockRead: "READ", LockRead | LockSpin: "SPIN|READ",
	LockWrite: "WRITE", LockWrite | LockSpin: "SPIN|WRITE",
}

// Namer turns the integers of events into names. Any of its functions may be
// nil or return "", and the number is printed.
type Namer struct {
	Task    func(task uint64) string
	Syscall func(nr uint64) string
	Vector  func(vector uint64) string
	Lock    func(obj uint64) string
	Mark    func(code uint64) string // of EvMark
	Oops    func(n uint64) string    // of EvOops, in one line
}

func lookup(f func(uint64) string, v uint64) string {
	if f == nil {
		return ""
	}
	return f(v)
}

// TaskName names a task; 0 is the idle task of a CPU.
func (n *Namer) TaskName(task uint64) string {
	if s := lookup(n.Task, task); s != "" {
		return s
	}
	if task == 0 {
		return "swapper"
	}
	return "task" + strconv.FormatUint(task, 10)
}

func pick(names []string, v uint64) string {
	if v < uint64(len(names)) {
		return names[v]
	}
	return ""
}

// name returns the word for an argument, "" if it is only a number.
func (n *Namer) name(how format, v uint64) string {
	switch how {
	case fTask:
		return n.TaskName(v)
	case fSyscall:
		return lookup(n.Syscall, v)
	case fVector:
		return lookup(n.Vector, v)
	case fLock:
		return lookup(n.Lock, v)
	case fMark:
		return lookup(n.Mark, v)
	case fOops:
		return lookup(n.Oops, v)
	case fPinKind:
		return pick(pinKinds[:], v)
	case fLockHow:
		return pick(lockHows[:], v)
	case fReason:
		return pick(flushReasons[:], v)
	case fForkAction:
		return pick(forkActions[:], v)
	case fDirection:
		return pick([]string{DMAToMemory: "to-memory", DMAFromMemory: "from-memory"}, v)
	case fTLBAddr:
		if v == TLBAll {
			return "all"
		}
	}
	return ""
}

// value appends an argument as text.
func (n *Namer) value(dst []byte, how format, v uint64) []byte {
	if s := n.name(how, v); s != "" {
		return append(dst, s...)
	}
	switch how {
	case fHex, fTLBAddr, fLock:
		return strconv.AppendUint(append(dst, "0x"...), v, 16)
	case fSigned:
		return strconv.AppendInt(dst, int64(v), 10)
	case fBool:
		return strconv.AppendBool(dst, v != 0)
	case fBytes:
		dst = strconv.AppendUint(dst, BioBytes(v), 10)
		if v&BioWrite != 0 {
			dst = append(dst, " write"...)
		}
		if v&BioError != 0 {
			dst = append(dst, " error"...)
		}
		return dst
	}
	return strconv.AppendUint(dst, v, 10)
}

// BioBytes returns the byte count of a bio event's third argument.
func BioBytes(c uint64) uint64 { return c &^ (BioWrite | BioError) }

// AppendArgs appends the arguments of e as name=value, separated by blanks.
func (n *Namer) AppendArgs(dst []byte, e Event) []byte {
	if e.Kind >= NumEventKinds {
		return dst
	}
	vals := [3]uint64{e.A, e.B, e.C}
	first := true
	for i, a := range kinds[e.Kind].args {
		if a.how == fNone {
			continue
		}
		if !first {
			dst = append(dst, ' ')
		}
		first = false
		dst = append(append(dst, a.name...), '=')
		dst = n.value(dst, a.how, vals[i])
	}
	return dst
}

// AppendText appends one line for e, without a newline and without its time:
// "cpu1 reader: cow_copy address=0x7000 old_pfn=0x12 new_pfn=0x40". It is for oops reports.
func (n *Namer) AppendText(dst []byte, e Event) []byte {
	if e.CPU == DeviceCPU {
		dst = append(dst, "device: "...)
	} else {
		dst = strconv.AppendUint(append(dst, "cpu"...), uint64(e.CPU), 10)
		dst = append(append(dst, ' '), n.TaskName(e.Task)...)
		dst = append(dst, ": "...)
	}
	dst = append(append(dst, e.Kind.String()...), ' ')
	return n.AppendArgs(dst, e)
}
