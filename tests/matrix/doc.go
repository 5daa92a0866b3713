// Package matrix judges every policy on every workload.
//
// A cell says how it was established: by a witness, which is a token that replays it, by
// so many schedules, or by all schedules within a bound. There are two sources. The small form of the workload is
// run under many schedules of the free regime, chosen by a portfolio of strategies: a
// verdict found there comes with a token that replays it exactly. The default size is
// run in the parallel regime, as a program would run on a real machine: what it shows
// is evidence that the verdict does not depend on the small form, but it cannot be
// replayed. What only the parallel regime has shown is therefore looked for in more schedules.
//
// Tell captures the run that a token names and cuts it down to the page that went two
// ways: what cowlab replay draws.
//
// A cell without findings is "safe" only as far as its bound says.
package matrix
