package scenarios

import (
	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

// director stands between the machine and the strategy. Set-up and the last look at the
// state follow the default rule, so that a search is spent on the columns alone; while
// disks are held, the strategy is not offered what they would do.
type director struct {
	gate  *explore.Gate // closed during set-up
	after *explore.Gate // never opened: the default rule
	over  bool
	held  bool

	ch    sched.Choice // scratch
	index []int
}

func newDirector(s sched.Strategy) *director {
	return &director{gate: explore.NewGate(s), after: explore.NewGate(sched.NewRandom(0))}
}

// Begin implements sched.Strategy.
func (d *director) Begin(cpus int) {
	d.gate.Begin(cpus)
	d.after.Begin(cpus)
}

// Pick implements sched.Strategy.
func (d *director) Pick(ch *sched.Choice) int {
	if d.over {
		d.gate.End(ch)
		return d.after.Pick(ch)
	}
	if !d.held {
		return d.gate.Pick(ch)
	}
	d.ch.Step, d.ch.Last, d.ch.Run, d.ch.Foot = ch.Step, ch.Last, ch.Run, ch.Foot
	d.ch.Enabled, d.index = d.ch.Enabled[:0], d.index[:0]
	for i := range ch.Enabled {
		if a := &ch.Enabled[i]; a.CPU >= 0 || a.Obj.Class() == x86.ClassTimer || a.Op == x86.OpReclaim {
			d.ch.Enabled = append(d.ch.Enabled, *a)
			d.index = append(d.index, i)
		}
	}
	if len(d.index) == 0 {
		return d.gate.Pick(ch)
	}
	i := d.gate.Pick(&d.ch)
	if i == sched.Cut {
		return sched.Cut
	}
	return d.index[i]
}
