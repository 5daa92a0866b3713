package scenarios

import (
	"fmt"
	"strings"
)

// verb is an operation that is written as a word and its arguments.
type verb struct {
	name string
	// pattern lists the arguments: NAME, NUM, PLACE; a word stands for itself, a|b for
	// one of several, [x] for one that may be missing.
	pattern string
	// result says what a register gets; empty if it can get nothing.
	result string
	help   string
	do     func(x *exec, op *Op) (int64, error)
	// device is set if a device can do it, too.
	device bool
}

const bytesOrError = "the bytes transferred, or an error"

// verbs returns the table of verbs, in the order of the documentation.
func verbs() []verb {
	return []verb{
		{name: "fork", pattern: "NAME", result: "0, or an error", help: "make a child, which does what the column NAME says", do: doFork},
		{name: "vfork", pattern: "NAME", result: "0, or an error", help: "fork, but the child borrows the memory; waits until it exits", do: doFork},
		{name: "wait", pattern: "NAME", result: "0, or an error", help: "wait until the child NAME, which must exit, has ended", do: doWait},
		{name: "exit", pattern: "[NUM]", help: "end the process now; otherwise it lives until the end of the run", do: doExit},
		{name: "set", pattern: "NAME", help: "let an event happen", do: doSet, device: true},
		{name: "await", pattern: "NAME", help: "wait until the event has happened", do: doAwait, device: true},

		{name: "pause", pattern: "NUM", help: "let NUM steps of the others fit in, about", do: doPause, device: true},

		{name: "pread", pattern: "PLACE at NUM", result: bytesOrError, help: "read the disk from offset NUM into memory, O_DIRECT", do: doDirect},
		{name: "pwrite", pattern: "PLACE at NUM", result: bytesOrError, help: "write memory to the disk, O_DIRECT", do: doDirect},
		{name: "io_read", pattern: "PLACE at NUM", result: "1, or an error", help: "io_submit a read", do: doSubmit},
		{name: "io_write", pattern: "PLACE at NUM", result: "1, or an error", help: "io_submit a write", do: doSubmit},
		{name: "io_wait", pattern: "[NUM]", result: "what the last one transferred, or an error", help: "io_getevents for NUM requests, else for all of the column's", do: doIOWait},
		{name: "hold", pattern: "disk", help: "from here on disks do nothing, unless nobody else can do anything", do: doHold, device: true},
		{name: "release", pattern: "disk", help: "disks go on", do: doRelease, device: true},

		{name: "pin", pattern: "NAME PLACE read|write [fast|umem] [get|pin|longterm]", result: "0, or an error", help: "register memory with a driver, for a device that reads or writes it; the pages are called NAME", do: doPin},
		{name: "unpin", pattern: "NAME", result: "0, or an error", help: "give a registration back", do: doUnpin, device: true},
		{name: "vmsplice", pattern: "NAME PLACE", result: bytesOrError, help: "put memory into a pipe by reference", do: doVmsplice},
		{name: "pipe_read", pattern: "NAME NUM", result: "the byte that all of them are, or mixed, or an error", help: "read NUM bytes from a pipe", do: doPipeRead},

		{name: "mmap", pattern: "NAME NUM page|pages private|shared [ro]", result: "0, or an error", help: "map memory that the process has not got yet", do: doMmap},
		{name: "munmap", pattern: "PLACE", result: "0, or an error", help: "unmap", do: doMunmap},
		{name: "mprotect", pattern: "PLACE none|r|rw", result: "0, or an error", help: "change the protection", do: doMprotect},
		{name: "mremap", pattern: "NAME", result: "0, or an error", help: "move a mapping to another address", do: doMremap},
		{name: "madvise", pattern: "PLACE dontfork|dofork|dontcow|dontneed|pageout|mergeable", result: "0, or an error", help: "give advice", do: doMadvise},
		{name: "mlock", pattern: "PLACE", result: "0, or an error", help: "lock in memory", do: doMlock},
		{name: "munlock", pattern: "PLACE", result: "0, or an error", help: "take mlock back", do: doMlock},
		{name: "swapout", pattern: "PLACE", result: "1 if the page is unmapped, else 0", help: "reclaim a page until its pte is a swap entry, at most four times", do: doSwapout},
		{name: "reclaim", pattern: "", help: "reclaim the inactive lists once", do: doReclaim},
		{name: "ksm", pattern: "NUM", result: "0, or an error", help: "make NUM passes over mergeable memory; a page that the second one finds unchanged is merged", do: doKSM},
		{name: "fence", pattern: "", help: "wait until this CPU's stores can be seen by all (mfence)", do: doFence},
		{name: "drain", pattern: "", help: "empty the pagevecs of all CPUs (lru_add_drain_all); no other column may be at work meanwhile", do: doDrain},
	}
}

func verbByName(name string) *verb {
	for _, v := range verbs() {
		if v.name == name {
			return &v
		}
	}
	return nil
}

func verbNames() []string {
	var names []string
	for _, v := range verbs() {
		names = append(names, v.name)
	}
	return names
}

// slot is an argument of a verb's pattern.
type slot struct {
	kind     string   // NAME, NUM, PLACE, or empty for words
	words    []string // which words
	optional bool
}

// slots reads a pattern.
func (v *verb) slots() []slot {
	var out []slot
	for _, f := range strings.Fields(v.pattern) {
		var s slot
		if strings.HasPrefix(f, "[") {
			s.optional = true
			f = strings.Trim(f, "[]")
		}
		switch f {
		case "NAME", "NUM", "PLACE":
			s.kind = f
		default:
			s.words = strings.Split(f, "|")
		}
		out = append(out, s)
	}
	return out
}

// wants says what a slot is in an error.
func (s *slot) wants() string {
	switch s.kind {
	case "NAME":
		return "a name"
	case "NUM":
		return "a number"
	case "PLACE":
		return "memory, as A, A[0] or A[0:512]"
	}
	var q []string
	for _, w := range s.words {
		q = append(q, fmt.Sprintf("%q", w))
	}
	return strings.Join(q, " or ")
}

// funcs are the functions of terms: how many places they take.
var funcs = []struct {
	name   string
	places int // -1: a word instead
	help   string
}{
	{"refs", 1, "references to the page (page_count)"},
	{"mapcount", 1, "page-table entries that map the page"},
	{"swapcount", 1, "users of the page's swap entry, the swap cache among them; 0 without one"},
	{"present", 1, "1 if the page is mapped"},
	{"writable", 1, "1 if it is mapped and the pte has the write bit"},
	{"swapped", 1, "1 if the pte is a swap entry"},
	{"samepage", 2, "1 if both are the same page, in memory or in swap; a pin counts as its page"},
	{"counter", -1, "how much a counter of the machine, named as /proc/vmstat has it, grew since the threads began"},
	{"segv", -1, "1 if that column ended by SIGSEGV or SIGBUS"},
}

// verdictWords are terms that say how a run ended.
var verdictWords = []string{"bug", "leak", "deadlock", "livelock", "oom", "refused", "broken"}
