package workload

import (
	"fmt"
	"maps"
	"sort"
	"strconv"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
)

// Param is a parameter of a workload: a flag of the command, a field of a token.
type Param struct {
	// Name is the flag's name, as the thread's program has it where it has one.
	Name string
	// Usage is a line of help.
	Usage string
	// Default is the value for the parallel regime, Small that of the small form.
	Default, Small int64
	// Min and Max bound the value, both inclusive.
	Min, Max int64
	// Multiple, if not zero, is what the value must be a multiple of.
	Multiple int64
	// Amount is set if a smaller value means the same program with less to do. A schedule
	// is minimised down to the least that still goes wrong.
	Amount bool
}

// Values are a workload's parameters with their values.
type Values map[string]int64

// The parameters that every workload has: what else a search over schedules chooses, and
// looks for. They are of the machine and not of the program, so that a program without a
// word about them has them too.
const (
	tsoParam     = "tso"
	failParam    = "fail"
	racesParam   = "races"
	reclaimParam = "reclaim"
)

// withMachine appends the parameters that every workload has.
func withMachine(ws []*Workload) []*Workload {
	for _, w := range ws {
		w.Params = append(w.Params,
			Param{Name: tsoParam, Max: 1,
				Usage: "1: each CPU has a store buffer (x86-TSO), so that a missing barrier shows; free regime only"},
			Param{Name: failParam, Max: 3, Amount: true,
				Usage: "so many allocations of memory may fail, at any moment; free regime only"},
			Param{Name: racesParam, Max: 1,
				Usage: "1: data races on the kernel's plain fields are looked for; not in the parallel regime"},
			Param{Name: reclaimParam, Max: kernel.OfferedReclaims, Amount: true,
				Usage: "so many pages may be reclaimed, at any moment; free regime only"})
	}
	return ws
}

// CheckRegime reports the first value that makes no sense in a regime.
func (w *Workload) CheckRegime(v Values, regime sched.Regime) error {
	for _, p := range []string{tsoParam, failParam, reclaimParam} {
		if x := v[p]; x != 0 && regime != sched.Free {
			return fmt.Errorf("%s: %s=%d is for searches, in the free regime; this is the %v one", w.Name, p, x, regime)
		}
	}
	if x := v[racesParam]; x != 0 && regime == sched.Parallel {
		return fmt.Errorf("%s: %s=%d is for the deterministic regimes; Go's race detector knows the parallel one", w.Name, racesParam, x)
	}
	return nil
}

// Int returns a value as an int.
func (v Values) Int(name string) int { return int(v[name]) }

// Values returns the workload's default values, or those of the small form.
func (w *Workload) Values(small bool) Values {
	v := make(Values, len(w.Params))
	for _, p := range w.Params {
		v[p.Name] = p.Default
		if small {
			v[p.Name] = p.Small
		}
	}
	return v
}

// Validate reports the first value that is out of its bounds.
func (w *Workload) Validate(v Values) error {
	for name := range v {
		if w.param(name) == nil {
			return fmt.Errorf("%s has no parameter %q (it has %s)", w.Name, name, strings.Join(w.paramNames(), ", "))
		}
	}
	for _, p := range w.Params {
		x := v[p.Name]
		if x < p.Min || x > p.Max {
			return fmt.Errorf("%s: %s is %d, must be %d to %d", w.Name, p.Name, x, p.Min, p.Max)
		}
		if p.Multiple != 0 && x%p.Multiple != 0 {
			return fmt.Errorf("%s: %s is %d, must be a multiple of %d", w.Name, p.Name, x, p.Multiple)
		}
	}
	if w.Valid != nil {
		return w.Valid(v)
	}
	return nil
}

// Smaller returns values that leave the workload less to do: for each amount the least
// there is, then half of it, then one less. All are valid.
func (w *Workload) Smaller(v Values) []Values {
	var out []Values
	for _, p := range w.Params {
		if !p.Amount || v[p.Name] == 0 && p.Min <= 0 { // 0 often means: without end
			continue
		}
		unit := max(p.Multiple, 1)
		tried := map[int64]bool{v[p.Name]: true}
		for _, x := range []int64{max(p.Min, unit), v[p.Name] / 2 / unit * unit, v[p.Name] - unit} {
			if x < 1 || x >= v[p.Name] || tried[x] {
				continue
			}
			tried[x] = true
			less := maps.Clone(v)
			less[p.Name] = x
			if w.Validate(less) == nil {
				out = append(out, less)
			}
		}
	}
	return out
}

func (w *Workload) param(name string) *Param {
	for i := range w.Params {
		if w.Params[i].Name == name {
			return &w.Params[i]
		}
	}
	return nil
}

func (w *Workload) paramNames() []string {
	var names []string
	for _, p := range w.Params {
		names = append(names, p.Name)
	}
	return names
}

// Format writes the values that differ from the form's own, as "a=512,w=2": what
// tokens and tables show. The order is the workload's.
func (w *Workload) Format(v Values, small bool) string {
	base := w.Values(small)
	var parts []string
	for _, p := range w.Params {
		if v[p.Name] != base[p.Name] {
			parts = append(parts, fmt.Sprintf("%s=%d", p.Name, v[p.Name]))
		}
	}
	return strings.Join(parts, ",")
}

// Parse reads what Format wrote, on top of the form's own values.
func (w *Workload) Parse(s string, small bool) (Values, error) {
	v := w.Values(small)
	if s == "" {
		return v, nil
	}
	for _, part := range strings.Split(s, ",") {
		name, val, ok := strings.Cut(part, "=")
		if !ok || w.param(name) == nil {
			return nil, fmt.Errorf("%s has no parameter %q (it has %s)", w.Name, name, strings.Join(w.paramNames(), ", "))
		}
		n, err := strconv.ParseInt(val, 0, 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %s wants a number, not %q", w.Name, name, val)
		}
		v[name] = n
	}
	return v, w.Validate(v)
}

// Names returns the names of values, sorted: for tests.
func (v Values) Names() []string {
	names := make([]string, 0, len(v))
	for n := range v {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}
