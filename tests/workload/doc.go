// Package workload has the programs that policies are judged by, as user programs of
// the emulated kernel, with their parameters and with exact verification: the three
// programs of the thread, dma_thread, forkscrew and forkscrewreverse.
//
// A workload runs in two sizes. The default size is for the parallel regime and for
// costs; the small form, a few pages and two workers, is for the deterministic
// regimes, where every schedule counts.
//
// Besides there are the other users of get_user_pages: pin_fork and late_dma (drivers),
// vmsplice (pages in a pipe), ptrace_peek (a debugger), ksm_pin (KSM merges what is pinned);
// and what else has to do with pinned pages: reclaim, mprotect, munmap, a snapshot writer,
// storms of forks, a database. Each has a property that it checks byte by byte.
//
// A workload with parameters is a variant, a column of the matrix, and each variant is in
// one group (see Groups). Most programs have a form on huge pages.
//
// What a run reports is what was observed: a Verdict and the evidence for it. Nothing
// here knows which policy is supposed to do what.
//
// To add a workload: fill in a Workload, add it to All, run the matrix.
package workload
