package matrix

import (
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// Target makes the small form of a workload under a policy something to explore. v
// holds all parameters; hosts pools machines between runs.
func Target(w *workload.Workload, v workload.Values, p mm.Policy, hosts *kernel.Hosts) *explore.Target {
	return TargetWith(w, v, p, hosts, nil)
}

// TargetWith is Target with what tune, which may be nil, changes of each run's options. As
// long as that is no part of the machine, the same token names the same schedule.
func TargetWith(w *workload.Workload, v workload.Values, p mm.Policy, hosts *kernel.Hosts, tune func(*workload.Options)) *explore.Target {
	t := &explore.Target{Name: w.Name, Policy: p.Name(), Params: params(w, v)}
	content := sync.OnceValue(func() []byte { return w.Content(v) })
	first := &sched.FirstRuns{}
	t.Run = func(s sched.Strategy, o sched.Observer) explore.Observation {
		wo := workload.Options{
			Policy: p, Values: v, Small: true, Regime: sched.Free, Strategy: s, Observer: o, Hosts: hosts,
			Content: content(), Watchdog: first.Watchdog(),
		}
		if tune != nil {
			tune(&wo)
		}
		out, err := workload.Execute(w, wo)
		if err != nil {
			obs := explore.Observation{Verdict: explore.Panicked, Detail: err.Error()}
			if stuck := (*sched.StuckError)(nil); errors.As(err, &stuck) {
				obs.Result = &sched.Result{Reason: sched.Stuck, Detail: stuck.Detail}
			}
			return obs
		}
		return observe(out)
	}
	t.Smaller = func() []explore.Target {
		var less []explore.Target
		for _, v := range w.Smaller(v) {
			less = append(less, *TargetWith(w, v, p, hosts, tune))
		}
		return less
	}
	return t
}

// CaptureOptions tell a capture how the machine's objects are called and what they hold.
func CaptureOptions() explore.CaptureOptions {
	return explore.CaptureOptions{
		Describe: func(m *sched.Machine, o x86.ObjID) string { return mm.OfMachine(m).DescribeObj(o) },
		Name:     func(m *sched.Machine, o x86.ObjID) string { return mm.OfMachine(m).NameObj(o) },
		Funcs:    mm.KernelNames(),
		Hook:     mm.HookName,
		Bytes:    func(m *sched.Machine, o x86.ObjID) ([]byte, uint64) { return mm.OfMachine(m).BytesOf(o) },
		Snapshot: func(m *sched.Machine, to explore.Sink) { mm.OfMachine(m).Snapshot(to) },
	}
}

// params lists the values that differ from the small form's own: what a token needs.
func params(w *workload.Workload, v workload.Values) []explore.Param {
	base := w.Values(true)
	var out []explore.Param
	for _, p := range w.Params {
		if v[p.Name] != base[p.Name] {
			out = append(out, explore.Param{Key: p.Name, Value: fmt.Sprint(v[p.Name])})
		}
	}
	return out
}

// observe turns an outcome into what a search counts. A run in which a system call
// failed that should have worked is no verdict on the policy: it is reported as
// "broken", so that it cannot hide among the safe ones.
func observe(out *workload.Outcome) explore.Observation {
	o := explore.Observation{
		Verdict: string(out.Verdict), Steps: out.Points, State: State(out), Result: out.Result,
	}
	if f := out.First(); f != nil {
		o.Detail = f.String()
	}
	if out.Verdict == workload.Safe && len(out.Problems) > 0 {
		o.Verdict, o.Detail = Broken, out.Problems[0]
	}
	return o
}

// Broken is the verdict word of runs in which the program itself did not work.
const Broken = "broken"

// frameWords is how findings name a frame.
var frameWords = regexp.MustCompile(`\b(pfn|page) (0x[0-9a-f]+|[0-9]+)\b`)

// memoryWords is how a finding tells how much memory there was when somebody was killed for want of it.
var memoryWords = regexp.MustCompile(`\b[0-9]+ pages mapped, [0-9]+ free\b`)

// canonical replaces the numbers of frames in a finding, which depend on the order in which
// they were allocated, by the order in which the findings name them. How much memory was free, and
// mapped, is left out: it is looked at without a lock, for the report alone, and what another CPU does
// at that moment has nothing to do with it.
func canonical(finding string, frames *explore.Canon) string {
	finding = memoryWords.ReplaceAllString(finding, "")
	return frameWords.ReplaceAllStringFunc(finding, func(s string) string {
		kind, num, _ := strings.Cut(s, " ")
		n, err := strconv.ParseUint(num, 0, 64)
		if err != nil {
			return s
		}
		return fmt.Sprint(kind, " ", frames.Number(n))
	})
}

// State is a digest of how a run ended: findings, counters, points and the disk. Time is not
// part of it, because schedules that differ only in the order of steps that have nothing to do with each
// other end at different times.
// Two runs of the same choices have the same State, in any process.
func State(out *workload.Outcome) uint64 {
	var h explore.StateHash
	h.PutString("verdict", string(out.Verdict))
	lines := make([]string, 0, len(out.Findings))
	var frames explore.Canon
	for _, f := range out.Findings {
		lines = append(lines, canonical(f.String(), &frames))
	}
	sort.Strings(lines)
	for _, l := range lines {
		h.PutString("finding", l)
	}
	counters := make([]byte, 0, 8*len(out.Counters))
	for _, c := range out.Counters {
		counters = binary.LittleEndian.AppendUint64(counters, c)
	}
	h.Put("counters", counters)
	h.PutUint("points", out.Points)
	h.Put("disk", out.Disk)
	return h.Sum()
}
