package spec

import (
	"context"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
)

// Minimise looks for the fewest operations that still show a verdict under a policy: columns,
// meeting points, operations, mappings, and what the machine has are left out one after the
// other, and the model is made anew each time. schedules bounds the search for each. What shows a
// hole that Known lists is not taken for something smaller than what shows one that it does not.
func Minimise(ctx context.Context, p *Program, pol mm.Policy, hosts *kernel.Hosts, verdict string, schedules uint64, known bool) (*Program, *explore.Witness) {
	best, seen := p, (*explore.Witness)(nil)
	try := func(s *scenarios.Scenario) bool {
		if s == nil {
			return false
		}
		c, err := NewProgram(s)
		if err != nil {
			return false
		}
		w := c.shows(ctx, pol, hosts, verdict, schedules)
		if w == nil || !known && c.known(pol, hosts, w) != 0 {
			return false
		}
		best, seen = c, w
		return true
	}
	for again := true; again && ctx.Err() == nil; {
		again = false
		for i := 0; ctx.Err() == nil; i++ {
			cuts := append(best.Text.Cuts(), simpler(best.Text)...)
			if i >= len(cuts) {
				break
			}
			if try(best.Text.With(cuts[i])) {
				again = true
				i--
			}
		}
	}
	if seen == nil {
		seen = p.shows(ctx, pol, hosts, verdict, schedules)
	}
	return best, seen
}

// shows searches for a verdict; nil if it is not found.
func (p *Program) shows(ctx context.Context, pol mm.Policy, hosts *kernel.Hosts, verdict string, schedules uint64) *explore.Witness {
	rep, err := explore.Search(ctx, *p.Target(pol, hosts), explore.Options{
		Schedules: schedules, Seed: 1, Workers: 1, StopAtFirst: true, Bad: func(v string) bool { return v == verdict },
	})
	if err != nil {
		return nil
	}
	return rep.Witness(verdict)
}

// known is Known of what a run of the program showed.
func (p *Program) known(pol mm.Policy, hosts *kernel.Hosts, w *explore.Witness) int {
	return Known(pol.Name(), w.Verdict, kinds(p.Text), func() []deed { return deeds(p.Target(pol, hosts), w.Spec) })
}

// simpler lists what can be made simpler besides leaving operations out. None of it can be
// done twice.
func simpler(s *scenarios.Scenario) []func(*scenarios.Scenario) {
	var out []func(*scenarios.Scenario)
	for i, d := range s.Maps {
		name := d.Name.Text
		named := strings.Contains(table(s), " "+name) || strings.Contains(table(s), ":"+name)
		if !named {
			out = append(out, func(c *scenarios.Scenario) {
				c.Maps = slices.Delete(c.Maps, i, i+1)
				c.Inits = slices.DeleteFunc(c.Inits, func(in scenarios.Init) bool { return in.Place.Name == name })
			})
		}
		if d.Pages > 1 {
			out = append(out, func(c *scenarios.Scenario) { c.Maps[i].Pages = 1 })
		}
		if d.File || d.Shared || d.ReadOnly {
			out = append(out, func(c *scenarios.Scenario) {
				c.Maps[i].File, c.Maps[i].Shared, c.Maps[i].ReadOnly = false, false, false
			})
		}
	}
	for i := range s.Fails {
		out = append(out, func(c *scenarios.Scenario) { c.Fails = slices.Delete(c.Fails, i, i+1) })
	}
	for i, p := range s.Pipes {
		if !strings.Contains(table(s), " "+p.Text+" ") {
			out = append(out, func(c *scenarios.Scenario) { c.Pipes = slices.Delete(c.Pipes, i, i+1) })
		}
	}
	if s.Machine.Swap != 0 {
		out = append(out, func(c *scenarios.Scenario) { c.Machine.Swap = 0 })
	}
	if s.Machine.Disk != 0 {
		out = append(out, func(c *scenarios.Scenario) {
			c.Machine.Disk = 0
			c.Inits = slices.DeleteFunc(c.Inits, func(in scenarios.Init) bool { return in.Place.Name == "disk" })
		})
	}
	for i, col := range s.Columns {
		for r, op := range col.Rows {
			if op == nil {
				continue
			}
			if op.Dst.Text != "" && len(s.Fails) == 0 && len(op.Args) > 0 && op.Verb != "pipe_read" {
				out = append(out, func(c *scenarios.Scenario) { c.Columns[i].Rows[r].Dst = scenarios.Name{} })
			}
			for a := len(op.Args) - 1; a >= 2; a-- {
				if op.Verb == "pin" && slices.Contains([]string{"fast", "longterm", "pin"}, op.Args[a].Word) {
					out = append(out, func(c *scenarios.Scenario) {
						o := c.Columns[i].Rows[r]
						o.Args = slices.Delete(o.Args, a, a+1)
					})
				}
			}
		}
	}
	return out
}

// table is the text of the columns.
func table(s *scenarios.Scenario) string {
	var b strings.Builder
	for _, c := range s.Columns {
		for _, op := range c.Rows {
			if op != nil {
				b.WriteString(" " + op.String() + "\n")
			}
		}
	}
	return b.String()
}
