package explore

import "math"

// Covered says how far a search is that runs all schedules within a bound, or one of each
// class. How many there are is known only when it ends.
type Covered struct {
	// Done is how many schedules have been run.
	Done uint64
	// Left is how many are known to be left, which is less than there will be.
	Left uint64
	// Share is an estimate of how much of the whole is done, from 0 to 1. It never shrinks, and
	// is 1 at the end, but for rounding. In between it is wrong, because a subtree of which only the
	// root is known is taken to be as large as others of its height: for Reduce mostly too high,
	// and by far at the beginning. See growth for what was measured.
	Share float64
}

// coverage estimates how much of a tree of schedules has been run, after Knuth, Estimating
// the efficiency of backtrack programs, 1975, and the weighted backtrack estimator of Kilby,
// Slaney, Thiébaux and Walsh, 2006. The nodes are schedules: below each are those that it was
// the first to show the need for. The first one weighs 1; a schedule that has been run gives
// away its weight to those below, and keeps a part for itself. What has been kept is the
// share: no matter how the weights are divided, it grows to 1.
type coverage struct {
	kept   float64 // but for rounding
	length int     // steps of the first run; for Reduce
	spare  float64 // of what has been cut, to be given to what has not; for Exhaust
}

// growth is by how much a subtree of [Reduce] is taken to grow with each step that is left.
// Weights that do not know it give a decision near the root, which is found late, the share
// of one near a leaf, and the search would seem to be nearly through at once. Of
// the values tried on the races of tests/workload this was off least, which is not little: in 14
// searches of them, of 450 to 45,763 schedules, the share was too high nearly all the time in
// eleven, too low in two (write_store under stock: 20 % when half was done), and one after the
// other in one. Behind the first tenth it was off by a factor of up to 2 to 7; before that by
// some 50 to 100 in each search of driver_fork, which has half the share when one
// schedule in a hundred is done, and once by 180.
const growth = 1.1

// size is how many schedules a branch at a position is taken to lead to.
func (c *coverage) size(pos int) float64 { return math.Pow(growth, float64(c.length-pos)) }

// keep enters the part of a schedule itself.
func (c *coverage) keep(w float64) { c.kept += w }

// claim takes what cuts have left over.
func (c *coverage) claim() (w float64) {
	w, c.spare = c.spare, 0
	return w
}

// share is what has been kept.
func (c *coverage) share() float64 { return min(c.kept, 1) }

// height is how many schedules a departure is taken to lead to that leaves so many steps, and
// so many preemptions to make among them: as many as there are ways to choose those.
func height(steps uint64, preemptions int) float64 {
	n := 1.0
	for i := range preemptions {
		n *= max(1, float64(steps)-float64(i)) / float64(i+1)
	}
	return n
}

// divide shares out the weight of a schedule that Exhaust has run and that leaves so many
// preemptions: to itself, and to its branches by their height, which it fills in. It returns
// the weight for each unit of height. What only the first of the branches are pursued
// for, because the others are cut, goes to schedules to come.
func (c *coverage) divide(res *waveResult, live int, weight float64, preemptions int) (unit float64) {
	all, alive := 1.0, 0.0
	for i := range res.branches {
		b := &res.branches[i]
		if b.cost > preemptions {
			continue
		}
		b.height = height(res.len-b.at, preemptions-b.cost)
		all += b.height
		if i < live {
			alive += b.height
		}
	}
	if alive > 0 {
		weight += c.claim()
	}
	unit = weight / all
	c.keep(unit)
	c.spare += unit * (all - 1 - alive)
	return unit
}
