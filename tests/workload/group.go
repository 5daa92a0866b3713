package workload

import "slices"

// The groups that the variants of workloads fall into. Each variant is in one: what it asks
// decides, but huge pages and swap have groups of their own, whatever is asked of them.
const (
	ForwardRace = "forward race" // what a device writes must arrive
	ReverseRace = "reverse race" // what others store must not reach a file
	Disclosure  = "disclosure"   // nor a pipe
	Swap        = "swap"         // with reclaim at work
	Hugetlb     = "hugetlb"      // the same programs on huge pages
	OtherUsers  = "other users"  // drivers, debuggers, KSM
	Semantics   = "semantics"    // what fork and protection mean to a program
	Liveness    = "liveness"     // whether it ends at all
)

// Groups lists the groups in the order of tables.
func Groups() []string {
	return []string{ForwardRace, ReverseRace, Disclosure, Swap, Hugetlb, OtherUsers, Semantics, Liveness}
}

// GroupOf returns the group that the workload is in with these values.
func (w *Workload) GroupOf(v Values) string {
	switch {
	case v["huge"] == 1:
		return Hugetlb
	case w.GroupFor != nil:
		return w.GroupFor(v)
	}
	return w.Group
}

// Variant is a workload with parameters: a column of the table.
type Variant struct {
	*Workload
	// Params are the parameters that differ from the small form's, as Parse reads them.
	Params string
}

// Group returns the variant's group.
func (v Variant) Group() string {
	values, err := v.Parse(v.Params, true)
	if err != nil {
		return v.Workload.Group
	}
	return v.GroupOf(values)
}

// Columns lists the variants of workloads that are in one of the groups, in the order of
// the workloads; no groups means all of them.
func Columns(ws []*Workload, groups []string) (out []Variant) {
	for _, w := range ws {
		variants := w.Variants
		if len(variants) == 0 {
			variants = []string{""}
		}
		for _, params := range variants {
			if v := (Variant{w, params}); len(groups) == 0 || slices.Contains(groups, v.Group()) {
				out = append(out, v)
			}
		}
	}
	return out
}
