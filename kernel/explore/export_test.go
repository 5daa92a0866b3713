package explore

// Checksum lets tests make tokens that are wrong in other ways.
func Checksum(s string) string { return checksum(s) }

// SpecOf returns the strategy of a schedule of a search with default options.
func (o Options) SpecOf(i uint64) Spec {
	o.setDefaults()
	return o.spec(i, 100)
}

// ByState returns how many schedules ended in a state.
func (r *Report) ByState(state uint64) uint64 { return r.states[state] }
