package policytest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// sites runs a cell and returns where pages were allocated.
func (s *suite) sites(c *cell, p mm.Policy, spec explore.Spec) (sites map[string]int, err error) {
	_, _, err = s.plain(c, p, spec.Strategy(), nil, func(o *workload.Options) {
		o.Booted = func(m *kernel.Machine) { m.Pages().CountSites() }
		o.Done = func(m *kernel.Machine) { sites = m.Pages().SiteCounts() }
	})
	return sites, err
}

// noMemory has allocations fail that the policy makes and Stock does not: the first of a
// site, and all. A system call may then fail, or a process be killed; nothing may leak,
// and no assertion fire.
func (s *suite) noMemory() (out []Problem) {
	var stock map[string]bool // sites that allocate under Stock too; asked for when needed
	told := map[string]bool{} // site and verdict
	for _, c := range s.cells(!s.o.Short) {
		for _, spec := range s.specs()[:1] {
			mine, err := s.sites(&c, s.p, spec)
			if err != nil {
				return append(out, Problem{Where: c.String(), Says: err.Error()})
			}
			theirs, err := s.sites(&c, mm.Stock{}, spec)
			if err != nil {
				return append(out, Problem{Where: c.String(), Says: err.Error()})
			}
			for _, site := range slices.Sorted(maps.Keys(mine)) {
				if mine[site] == 0 || theirs[site] > 0 {
					continue
				}
				if stock == nil {
					if stock, err = s.stockSites(); err != nil {
						return append(out, Problem{Where: "stock", Says: err.Error()})
					}
				}
				if stock[site] {
					continue
				}
				for _, nth := range []int{1, -1} {
					fail := failing(site, nth)
					_, got, err := s.plain(&c, contract{s.p}, spec.Strategy(), nil, fail)
					if err != nil {
						return append(out, Problem{Where: c.String(), Says: err.Error()})
					}
					says := amiss(got)
					if says == "" || told[site+string(got.Verdict)] {
						continue
					}
					told[site+string(got.Verdict)] = true
					out = append(out, Problem{
						Where: fmt.Sprintf("%s on %v", site, &c), Says: "when no page can be had: " + says,
						schedule: &schedule{&c, fail, spec, []explore.Param{{Key: siteParam, Value: site}, {Key: nthParam, Value: strconv.Itoa(nth)}}},
					})
				}
			}
		}
	}
	return out
}

// amiss says what must not come of an allocation that failed, "" if all is well. That bytes
// are missing which somebody did not live to write, or could not read, proves nothing; nor
// do those who wait for somebody who was killed.
func amiss(out *workload.Outcome) string {
	seen := append([]workload.Verdict{out.Verdict}, out.Also...)
	killed := slices.Contains(seen, workload.OOM)
	for _, v := range seen {
		switch v {
		case workload.Bug, workload.Leak, workload.Livelock:
		case workload.Deadlock:
			if killed {
				continue
			}
		default:
			continue
		}
		for _, f := range out.Findings {
			if f.Verdict == v {
				return fmt.Sprintf("%s: %v", v, f)
			}
		}
	}
	return ""
}

// stockSites are the sites that allocate under Stock, in any workload.
func (s *suite) stockSites() (map[string]bool, error) {
	all := map[string]bool{"": true}
	for _, c := range s.cells(true) {
		for _, spec := range s.specs() {
			some, err := s.sites(&c, mm.Stock{}, spec)
			if err != nil {
				return nil, err
			}
			for site := range some {
				all[site] = true
			}
		}
	}
	return all, nil
}
