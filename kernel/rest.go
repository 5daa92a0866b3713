package kernel

import "github.com/cowlab/cowlab/kernel/sched"

// AtRest reports whether Check and Leaks have something to say: the last run was quiet,
// or there has been none.
func (m *Machine) AtRest() bool { return !m.down && (m.last == nil || m.last.Reason == sched.Quiet) }
