package conformance

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ltpScope is the names of LTP's programs for memory management and direct I/O, and those
// for process_vm and futexes. "mmap01-06,08" is mmap01 to mmap06 and mmap08.
var ltpScope = []string{
	// testcases/kernel/io
	"dma_thread_diotest", "diotest1-6", "aio-stress", "aiocp", "aiodio_append", "aiodio_sparse",
	"dio_append", "dio_read", "dio_sparse", "dio_truncate", "dirty",
	// testcases/kernel/security
	"dirtyc0w", "dirtyc0w_shmem", "dirtypipe",
	// testcases/kernel/mem
	"mmapstress01-10", "mmap-corruption01", "mtest01", "mmstress", "mmap1-3", "shmat1", "mallocstress", "shm_test",
	"mem02", "page01-02", "data_space", "stack_space", "swapping01", "oom01-05",
	"max_map_count", "min_free_kbytes", "overcommit_memory", "ksm01-07", "thp01-04", "vma01-05", "shmt02-10",
	"hugefork01-02", "hugemmap01-02,04-32,34-38", "hugefallocate01-02", "hugeshmat01-05", "hugeshmctl01-03",
	"hugeshmdt01", "hugeshmget01-06", "cpuset01-02",
	// testcases/kernel/syscalls
	"mmap01-06,08-22", "munmap01,03-04", "mprotect01-05", "mremap01-07", "madvise01-03,05-12", "process_madvise01",
	"fork01,03-05,07-10,13-14", "fork_procs", "vfork01-02", "mincore01-04", "msync01-04",
	"mlock01-05", "mlock201-203", "mlockall01-03", "munlock01-02", "munlockall01", "swapon01-03", "swapoff01-02",
	"vmsplice01-04", "splice01-09", "remap_file_pages01-02", "brk01-02", "migrate_pages01-03", "move_pages01-12",
	"mseal01-02", "shmat01-04", "memfd_create01-04", "cachestat01-04", "userfaultfd",
	"process_vm01", "process_vm_readv02-03", "process_vm_writev02", "futex_wait01-05", "futex_wake01-04",
}

// ltpLeftOut says why the others are not here, a line for each group.
var ltpLeftOut = map[string]string{
	"dma_thread_diotest":                         "it is the workload dma_thread",
	"aiodio_append,aiodio_sparse,dio_append":     "files that grow need a file system; block devices have their size",
	"dio_sparse,dio_truncate,dio_read,dirty":     "holes, truncation and the page cache of files need a file system",
	"dirtyc0w_shmem":                             "it holds the fault up with userfaultfd, of Linux 4.3",
	"dirtypipe":                                  "2.6.29 has no PIPE_BUF_FLAG_CAN_MERGE, which came with 5.8",
	"mmapstress01-02,04,07,10,mmap-corruption01": "stores and write(2) on one file need files that can be mapped",
	"mmap2-3,mmap01,03,09-10,16,21":              "files that can be mapped, truncated or executed; /dev/zero",
	"shmat1,shm_test,shmt02-10,shmat01-04":       "System V shared memory is not modelled",
	"oom02-05":                                   "NUMA policies, control groups and cpusets are not modelled",
	"ksm02-03,06-07":                             "cpusets, control groups and NUMA policies are not modelled; smart scan is of 6.7",
	"thp01-04":                                   "2.6.29 has no transparent huge pages",
	"vma02,04":                                   "mbind: NUMA policies are not modelled",
	"vma05":                                      "there is no vdso",
	"hugemmap12,30":                              "there is no fadvise and no readahead(2)",
	"hugemmap13-15,24-26,34-35":                  "address slices of PowerPC, caches of code, memory tags",
	"hugemmap32":                                 "pages of 1 GiB can be given back since 3.16",
	"hugefallocate01-02":                         "fallocate came with 2.6.23, on hugetlbfs with 4.3",
	"hugeshmat01-05,hugeshmctl01-03,hugeshmdt01,hugeshmget01-06": "System V shared memory is not modelled",
	"cpuset01-02,migrate_pages01-03,move_pages01-12":             "one node: cpusets and migration are not modelled",
	"mmap17":                "MAP_FIXED_NOREPLACE is of 4.17",
	"mmap20":                "MAP_SHARED_VALIDATE is of 4.15",
	"mmap22":                "MAP_DROPPABLE is of 6.11",
	"mremap07":              "MREMAP_DONTUNMAP is of 5.7, userfaultfd of 4.3",
	"madvise06":             "WILLNEED reads anonymous memory from swap since 3.9",
	"madvise07,11":          "MADV_HWPOISON is of 2.6.32, MADV_SOFT_OFFLINE of 2.6.33",
	"madvise08-10,12":       "MADV_DONTDUMP, _FREE, _WIPEONFORK, _GUARD_INSTALL are of 3.4, 4.5, 4.14 and 6.13",
	"process_madvise01":     "process_madvise is of 5.10; MADV_PAGEOUT of one's own memory is what the swap kinds use",
	"fork04-05":             "there is no environment and no LDT",
	"fork09":                "the limit of open files is not about memory",
	"fork13":                "process numbers do not wrap here",
	"vfork02":               "there is no sigpending",
	"msync01-04":            "there is no msync: nothing that is mapped is written back",
	"mlock201-203":          "mlock2 is of 4.4",
	"splice01-09":           "from a file to a pipe needs a page cache; from a pipe to a device is vmsplice01",
	"remap_file_pages01-02": "nonlinear mappings are not modelled",
	"mseal01-02,memfd_create01-04,cachestat01-04,userfaultfd": "of 6.10, 3.17, 6.5 and 4.3",
	"futex_wake04": "get_futex_key of 2.6.29 never returns for a word behind the first small page of a huge one: kernel, TestSharedFutexBehindTheHeadOfAHugePageHangs",
}

var ltpRange = regexp.MustCompile(`^(.*?)(\d+)-(\d+)$`)

// expand lists the names that a comma-separated list stands for. A number alone continues
// the name before it.
func expand(t *testing.T, list string) (out []string) {
	t.Helper()
	stem := ""
	for _, item := range strings.Split(list, ",") {
		if item[0] >= '0' && item[0] <= '9' {
			item = stem + item
		}
		m := ltpRange.FindStringSubmatch(item)
		if m == nil {
			out = append(out, item)
			stem = strings.TrimRight(item, "0123456789")
			continue
		}
		stem = m[1]
		from, err := strconv.Atoi(m[2])
		require.NoError(t, err)
		to, err := strconv.Atoi(m[3])
		require.NoError(t, err)
		for n := from; n <= to; n++ {
			out = append(out, fmt.Sprintf("%s%0*d", m[1], len(m[2]), n))
		}
	}
	return out
}

// TestLTPScope: every name is ported or left out for a reason,
// and none is both.
func TestLTPScope(t *testing.T) {
	where := map[string]string{}
	add := func(name, as string) {
		if was, twice := where[name]; twice {
			t.Errorf("%s is %s and %s", name, was, as)
		}
		where[name] = as
	}
	plenty, short, _, _ := ltp()
	for _, c := range slices.Concat(plenty, short) {
		for _, n := range c.names() {
			add(n, "ported")
		}
	}
	for _, c := range slices.Concat(ltpHuge, ltpHugeFile, ltpKSM) {
		for _, n := range c.names() {
			add(n, "ported")
		}
	}
	add("dirtyc0w", "ported") // TestDirtyCOW
	add("swapon03", "ported") // TestSwapFiles
	for list, why := range ltpLeftOut {
		assert.NotEmpty(t, why)
		for _, n := range expand(t, list) {
			add(n, "left out")
		}
	}
	scope := map[string]bool{}
	for _, list := range ltpScope {
		for _, n := range expand(t, list) {
			assert.False(t, scope[n], "%s twice", n)
			scope[n] = true
		}
	}
	for n := range scope {
		assert.Contains(t, where, n, "%s is neither ported nor left out", n)
	}
	for n, as := range where {
		assert.True(t, scope[n], "%s, %s, is not LTP's", n, as)
	}
	assert.Equal(t, []string{"mmap01", "mmap02", "mmap08", "x"}, expand(t, "mmap01-02,08,x"))
}
