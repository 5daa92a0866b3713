// Package matrix judges every policy on every workload.
//
// A cell of the table is established in two ways. The small form of the workload is
// run under many schedules of the free regime, chosen by a portfolio of strategies: a
// verdict found there comes with a token that replays it exactly. The default size is
// run in the parallel regime, as a program would run on a real machine: what it shows
// is evidence that the verdict does not depend on the small form, but it cannot be
// replayed.
//
// Tell captures the run that a token names and cuts it down to the page that went two
// ways: what cowlab replay draws.
//
// A cell without findings is "safe" only as far as its bound says.
package matrix
