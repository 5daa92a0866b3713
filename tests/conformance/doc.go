// Package conformance has the test suites that others wrote for copy-on-write and
// pinned pages, in our own words and under every policy: which cases pass, which fail,
// and for 2.6.29 why.
//
//	cow 1-14      Linux tools/testing/selftests/mm/cow.c, anon_test_cases, on base
//	              pages; a driver's registration stands in for gup_test and for the fixed
//	              buffers of io_uring
//	vmsplice      the disclosures of CVE-2020-29374, both ways
//	wp            Arcangeli's page_count_do_wp_page: a page that loses its write bit
//	              without fork, and a device that goes on writing to it
//	pin           gVisor's tests of pins and forks
//	peek          what a debugger's look costs
//	LTP           mmap, mremap, madvise, mincore, vmsplice, fork (ltp_test.go, which
//	              lists what is left out and why)
//
// A [Case] is a small program whose processes go in lock-step, so that there is one
// thing it can show. Its expectation for stock stands beside it, with the step of
// 2.6.29 that makes it fail. What the other policies do is not written down but
// recorded: testdata/cow.txt holds what was seen, the tests compare, and
//
//	go test ./tests/conformance -rewrite
//
// records it anew. Whoever does that reads the difference.
package conformance
