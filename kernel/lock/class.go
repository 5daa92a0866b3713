package lock

import (
	_ "embed"
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
)

// Class is a kind of lock: all ptls are of one class, all mmap_sems of another.
// The order between classes is order.txt.
type Class uint8

// The lock classes. Their names in order.txt and in reports are the kernel's.
const (
	NoClass Class = iota
	Syscall
	IMutex
	IAllocSem
	PinnedSem
	MmapSem
	AioRing
	PageLock
	IMmapLock
	AnonVMALock
	PageTableLock
	PTL
	SwapLock
	TreeLock
	LRULock
	ZoneLock
	MMListLock
	MMUNotifier
	FlushSlot
	Futex
	Pipe
	AioCtx
	Dio
	Policy
	PolicyLeaf
	Queue
	WaitQ
	TaskList
	SigHand
	HugetlbInstantiation
	Hugetlb
	Files
	HugetlbInode
	MMAllLocks
	MMULock
	KSMThread
	KSMMMList
	Shmem
	ShmemStat
	ShmemList
	NumClasses
)

var classNames = [NumClasses]string{
	"none", "syscall", "i_mutex", "i_alloc_sem", "pinned_sem", "mmap_sem", "aio_ring", "page_lock", "i_mmap_lock",
	"anon_vma", "page_table_lock", "ptl", "swap_lock", "tree_lock", "lru_lock", "zone_lock", "mmlist_lock", "mmu_notifier",
	"flush_slot", "futex", "pipe", "aio_ctx", "dio", "policy", "policy_leaf", "queue", "wait_queue",
	"tasklist", "sighand", "hugetlb_instantiation", "hugetlb", "files", "hugetlbfs_i_mutex",
	"mm_all_locks", "mmu_lock", "ksm_thread", "ksm_mmlist",
	"shmem", "shmem_stat", "shmem_list",
}

// String returns the class's name.
func (c Class) String() string {
	if c < NumClasses {
		return classNames[c]
	}
	return "class?"
}

//go:embed order.txt
var orderText string

// order is the parsed lock order. Immutable once made.
type order struct {
	before   [NumClasses][NumClasses]bool // a may be held while b is taken
	nested   [NumClasses]bool             // two of the class may be held
	irq      [NumClasses]bool             // taken in interrupt handlers
	nonowner [NumClasses]bool             // released by somebody else than the taker
}

var theOrder = mustParse(orderText)

func mustParse(text string) *order {
	o, err := parseOrder(text)
	if err != nil {
		panic(err)
	}
	return o
}

// parseOrder reads order.txt and takes the transitive closure. A cycle is an error.
func parseOrder(text string) (*order, error) {
	o := &order{}
	find := func(name string) (Class, error) {
		for i, n := range classNames {
			if n == name && i > 0 {
				return Class(i), nil
			}
		}
		return 0, fmt.Errorf("lock order: unknown class %q", name)
	}
	for n, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		if kind, list, ok := strings.Cut(line, ":"); ok {
			set := map[string]*[NumClasses]bool{"nested": &o.nested, "irq": &o.irq, "nonowner": &o.nonowner}[kind]
			if set == nil {
				return nil, fmt.Errorf("lock order line %d: unknown property %q", n+1, kind)
			}
			for _, name := range strings.Fields(list) {
				c, err := find(name)
				if err != nil {
					return nil, err
				}
				set[c] = true
			}
			continue
		}
		l, r, ok := strings.Cut(line, "<")
		if !ok {
			return nil, fmt.Errorf("lock order line %d: want \"a < b\", have %q", n+1, line)
		}
		a, err := find(strings.TrimSpace(l))
		if err != nil {
			return nil, err
		}
		b, err := find(strings.TrimSpace(r))
		if err != nil {
			return nil, err
		}
		o.before[a][b] = true
	}
	for k := range NumClasses {
		for i := range NumClasses {
			for j := range NumClasses {
				if o.before[i][k] && o.before[k][j] {
					o.before[i][j] = true
				}
			}
		}
	}
	for c := range NumClasses {
		if o.before[c][c] {
			return nil, fmt.Errorf("lock order: cycle through %s", c)
		}
	}
	return o, nil
}

const classShift = 40

// ClassOf returns the class that is part of every lock's ObjID.
func ClassOf(obj x86.ObjID) Class { return Class(obj.ID() >> classShift) }

// Namer names a lock for reports: its class and number.
func Namer(id uint64) string {
	return fmt.Sprintf("%s %d", Class(id>>classShift), id&(1<<classShift-1))
}
