// Package conformance has the test suites that others wrote for copy-on-write and
// pinned pages, in our own words, on several kinds of page and under every policy: which
// cases pass, which fail, and for 2.6.29 why.
//
//	cow           Linux tools/testing/selftests/mm/cow.c, anon_test_cases; a driver's
//	              registration stands in for gup_test and for the fixed buffers of io_uring
//	non-anon      its non_anon_test_cases
//	longterm      gup_longterm.c: pins of memory that a file is behind
//	hugetlb_dio   hugetlb_dio.c: direct writes must leave no pin behind
//	gvisor        gVisor's tests of pins and forks
//	pin, peek     what else a fix should not break, and what a debugger's look costs
//	page_count_do_wp_page, io_uring_swap, vfio_swap, vmsplice-v5.11, vmsplice-oom
//	              Arcangeli's reproducers
//	LTP           in Go tests: ltp_*_test.go; ltp_scope_test.go has every name, and
//	              what is left out and why
//
// The programs of the thread itself, dma_thread, forkscrew and forkscrewreverse, are
// workloads: package tests/workload.
//
// A [Case] is a small program whose processes go in lock-step, so that there is one
// thing it can show. It runs on one or more [Kind]s of page and does not know which:
//
//	        Kind                    Case                      mm.Policy
//	map, fill, bring into a   fork, pin, store, look   what happens where fork,
//	state and make sure of it                          COW and pins meet
//	          \________________________|________________________/
//	                                 a cell
//
// The expectation for stock stands beside each case, by kind, with the step of 2.6.29 that
// makes it fail, and a test holds both against each other. What the other policies do is not
// written down but recorded: testdata/cow.txt holds what was seen, the tests compare, and
//
//	go test ./tests/conformance -rewrite
//
// records it anew, with the table in the README. Whoever does that reads the difference.
// "cowlab cow" prints the same table.
package conformance
