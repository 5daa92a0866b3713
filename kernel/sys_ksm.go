package kernel

import (
	"github.com/cowlab/cowlab/mm"
)

// /sys/kernel/mm/ksm, of machines with Options.KSM. Memory becomes mergeable by Madvise with
// mm.MadvMergeable.

// KSMRun writes v to /sys/kernel/mm/ksm/run: mm.KSMRunStop, mm.KSMRunMerge or
// mm.KSMRunUnmerge. Errors are those of mm.System.KSMRun.
func (t *Thread) KSMRun(v int) error {
	task := t.enter(SysWrite, uint64(v), 1)
	err := t.m.sys.KSMRun(task, v)
	t.leave(SysWrite, result(1, err))
	return err
}

// KSMScan makes n passes over all mergeable memory, in this thread: a page that has not changed
// from one pass to the next is merged in the second. EINVAL if the machine has no KSM. See
// mm.System.KSMScan; no kernel has such a call.
func (t *Thread) KSMScan(n int) error {
	task := t.enter(SysIoctl, uint64(n), 0)
	err := t.m.sys.KSMScan(task, n)
	t.leave(SysIoctl, result(0, err))
	return err
}

// KSMStats returns what is in the files of /sys/kernel/mm/ksm. While the machine runs the
// numbers are approximate. For anybody.
func (m *Machine) KSMStats() mm.KSMStats { return m.sys.KSMStats() }

// SetKSMTunables writes the files that say how much ksmd does. For anybody.
func (m *Machine) SetKSMTunables(o mm.KSMTunables) { m.sys.SetKSMTunables(o) }
