// Package page is the machine's physical memory as the kernel sees it: one
// struct Page for each frame, reference and map counts, the buddy allocator
// with its per-CPU lists, and the LRU lists that reclaim works on.
//
// # struct page
//
// A [Map] is the array of Pages (mem_map). A Page is 64 bytes, one cache line,
// holds no Go pointers, and is valid when all zero. A Page and its frame number
// (pfn) are found from each other by arithmetic, so lists link pfns:
//
//	mem_map   | 0 | 1 | 2 | 3 |          ...                       | n |
//	            |       |   ^
//	    reserved,       +---+ next = 3 (a list through Page.next and prev; 0 ends it)
//	    never a link
//
// A Page does not know where it is mapped. Three questions have three answers:
//
//	how many hold it?       Count     0: free. Every holder has one: each page-table
//	                                  entry, the page cache or swap cache, a pagevec,
//	                                  each pin of get_user_pages, whoever looks at it now
//	how many ptes map it?   MapCount  0: not mapped (the kernel's _mapcount + 1)
//	what does it belong to? Mapping, Index   rmap finds the ptes from here
//
// The gap between the first two is what this project is about. A page with
// one mapping and two references is pinned, or in a cache, or in a pagevec, or
// just being looked at, and the counts do not say which:
//
//	Count     3 = 1 pte + 1 swap cache + 1 direct I/O
//	MapCount  1
//
// do_wp_page of 2.6.29 asks MapCount (and the swap map) and does not see the
// direct I/O; comparing Count with MapCount sees too much: the pagevec. The
// [Ledger] of debug runs knows the holder of every reference; the emulated
// kernel cannot ask it.
//
// # References
//
//	Alloc        Count = 1, the caller's
//	Get          one more; somebody else's reference must keep the page alive
//	TryGet       one more unless it is zero (get_page_unless_zero)
//	Put          one less; the last one frees the page
//	FreezeRefs   n to zero if it is exactly n: nobody can take one (page_freeze_refs)
//
// Put at zero takes the page off its LRU list, calls Map.OnFree (a policy's
// PageFree), checks that nobody uses the page (a bad page is an oops) and gives
// the frame to the allocator. Get and Put of a tail page are those of its head:
//
//	alloc order 2, GFPComp      head      tail      tail      tail
//	                            Count 1   Count 0   Count 0   Count 0
//	                            Head      Tail      Tail      Tail
//	                            order 2   head <----head <----head
//
// # The buddy allocator
//
// Free memory is in blocks of 1, 2, 4 .. 1024 pages, each aligned to its size. A
// block is split in two buddies when only a larger one is there, and merged
// with its buddy (the block whose pfn differs in one bit) when both are free:
//
//	order 2   [8 . . .]              alloc(0) -> 8
//	order 1             [10 .]       is left of it
//	order 0      [9]                 is left of it
//	                                 free(8): 8+9 -> [8 9], +[10 11] -> [8 . . .]
//
// Frames that were never used are in no list. Each zone has a wilderness above
// its brk, and takes a piece of it when its lists are empty: booting a machine
// of 64 GiB touches nothing.
//
//	start            brk                                 end
//	  | used or listed |           wilderness              |
//
// Watermarks follow min_free_kbytes. Below pages_low, WakeKswapd is called;
// at pages_min, allocations that may sleep call Reclaim and then OutOfMemory,
// those that may not go a little deeper, and GFPMemalloc takes the last page.
//
// # Per-CPU lists and the free regime
//
// Single pages come from a list of the CPU's own and go back to it, with only
// interrupts disabled and no lock; batch pages (31) at a time move between it
// and the zone, when it is empty or holds high pages (186).
//
//	Put -> hot end [ 17 4 93 ...  51 8 ] cold end -> zone, when too long
//	Alloc <-                                      <- zone, when empty
//
// In the free regime each CPU also has a zone of its own, a stripe of the
// frames, and small machines have per-CPU lists too. CPUs then allocate and
// free without a common lock or word, and get the same frames whatever the
// other CPUs do in between: such steps commute, and a search need not try both
// orders. Only a CPU whose stripe is used up goes to its neighbour's.
//
// # LRU lists and pagevecs
//
//	LRUCacheAdd -> pagevec of this CPU (14 pages, a reference each)
//	                  | full, or LRUAddDrain
//	                  v
//	               active or inactive list, anonymous or file; unevictable
//
// While a page sits in a pagevec flag LRU is clear, it can be neither activated
// nor isolated, and its Count is one higher than its holders explain.
//
// # Locks
//
// The zone lock orders free lists, the LRU lock LRU lists; both are irq-safe and
// taken in that kind of order only: LRU, then zone. The page lock (flag Locked)
// sleeps. Everything else is atomic words; each access passes a schedule point
// that names the word, as PageObj(pfn, word). Methods on Page pass none.
package page
