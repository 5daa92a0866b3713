package bench

import (
	"fmt"
	"testing"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// abCase is a workload in the size that policies are compared with: large enough for
// costs to show, small enough for the timed regime.
type abCase struct {
	workload string
	params   string // as workload.Parse reads them
	label    string // key=value parts of the benchmark's name
}

var abCases = []abCase{
	{"dma_thread", "a=512,w=16,files=1,filesize=262144,readsize=262144", "align=512"},
	{"dma_thread", "a=0,w=16,files=1,filesize=262144,readsize=262144", "align=0"},
	{"forkscrew", "rounds=2", "align=512"},
	{"forkscrewreverse", "size=1048576,child=5000,parent=1000", "size=1MiB"},
}

// column is a cost beside ns/op, in benchstat's way: a unit and where it comes from.
type column struct {
	unit     string
	counters []trace.Counter
}

var columns = []column{
	{"copies/op", []trace.Counter{trace.EmuPageCopies}},
	{"faults/op", []trace.Counter{trace.PGFault}},
	{"ipis/op", []trace.Counter{trace.EmuIPISent}},
	{"flushed-entries/op", []trace.Counter{trace.EmuTLBFlushed}},
	{"atomics/op", []trace.Counter{trace.EmuAtomics}},
	{"fences/op", []trace.Counter{trace.EmuFences}},
	{"line-transfers/op", []trace.Counter{trace.EmuLineTransfers}},
}

// BenchmarkPolicy runs every policy on every workload. ns/op is host time in the parallel
// regime and tells little on a shared host; the other figures are counted in the timed
// regime and are the same each time.
//
//	go test -run '^$' -bench Policy ./tests/bench | benchstat -col /policy -
func BenchmarkPolicy(b *testing.B) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, p := range policy.All() {
		for _, c := range abCases {
			for _, cpus := range []int{1, 2, 4} {
				name := fmt.Sprintf("policy=%s/workload=%s/%s/cpus=%d", p.Name(), c.workload, c.label, cpus)
				b.Run(name, func(b *testing.B) { benchPolicy(b, p, c, cpus, hosts) })
			}
		}
	}
}

func benchPolicy(b *testing.B, p mm.Policy, c abCase, cpus int, hosts *kernel.Hosts) {
	w, o := abOptions(b, p, c, cpus, hosts)
	for b.Loop() {
		if _, err := workload.Execute(w, o); err != nil {
			b.Fatal(err)
		}
	}
	o.Regime = sched.Timed
	out, err := workload.Execute(w, o)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(out.NS), "virtual-ns/op")
	for _, col := range columns {
		var n uint64
		for _, k := range col.counters {
			n += out.Counters[k]
		}
		b.ReportMetric(float64(n), col.unit)
	}
	extra := out.Counters[trace.EmuForkCopies] + out.Counters[trace.EmuCOWCopy]
	b.ReportMetric(float64(extra*4), "KiB-extra/op")
}

func abOptions(tb testing.TB, p mm.Policy, c abCase, cpus int, hosts *kernel.Hosts) (*workload.Workload, workload.Options) {
	tb.Helper()
	w := workload.Lookup(c.workload)
	v, err := w.Parse(c.params, false)
	if err != nil {
		tb.Fatal(err)
	}
	return w, workload.Options{Policy: p, Values: v, CPUs: cpus, Hosts: hosts, ForceHooks: true}
}

// TestTimedCostsRepeat checks what BenchmarkPolicy promises: two timed runs of a case agree
// in virtual time and in every counter.
func TestTimedCostsRepeat(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for i, p := range policy.All() {
		for j, c := range abCases {
			if i > 0 && (i+j)%len(abCases) != 0 {
				continue // Stock has every case, each of the others one
			}
			w, o := abOptions(t, p, c, 2, hosts)
			o.Regime = sched.Timed
			a, err := workload.Execute(w, o)
			if err != nil {
				t.Fatal(err)
			}
			b, err := workload.Execute(w, o)
			if err != nil {
				t.Fatal(err)
			}
			if a.NS != b.NS {
				t.Errorf("%s on %s: %d and %d virtual ns", p.Name(), c.workload, a.NS, b.NS)
			}
			for i := range a.Counters {
				if a.Counters[i] != b.Counters[i] {
					t.Errorf("%s on %s: %v is %d and %d", p.Name(), c.workload, trace.Counter(i), a.Counters[i], b.Counters[i])
				}
			}
		}
	}
}
