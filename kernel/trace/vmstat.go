package trace

import (
	"bufio"
	"io"
	"strconv"
)

// WriteVMStat writes totals as Linux 2.6.29 prints /proc/vmstat: a name, a
// blank, a number, a newline for each counter, in the kernel's order (Linux
// 2.6.29 mm/vmstat.c:vmstat_show). totals is indexed by Counter, as
// [Trace.Snapshot] returns it; counters it does not reach are left out. With emu set,
// our own counters follow under the prefix emu_; without it the file is what
// Linux would show.
func WriteVMStat(w io.Writer, totals []uint64, emu bool) error {
	b := bufio.NewWriter(w)
	n := min(len(totals), NumCounters)
	if !emu {
		n = min(n, numLinux)
	}
	var line [64]byte
	for i := range n {
		c := Counter(i)
		l := append(append(line[:0], c.String()...), ' ')
		if c.IsGauge() {
			l = strconv.AppendInt(l, max(int64(totals[i]), 0), 10) // Linux clamps too: global_page_state
		} else {
			l = strconv.AppendUint(l, totals[i], 10)
		}
		b.Write(append(l, '\n'))
	}
	return b.Flush()
}

// Delta returns after minus before for each counter; gauges may have fallen,
// so the words are signed numbers.
func Delta(before, after []uint64) []int64 {
	d := make([]int64, len(after))
	for i := range after {
		d[i] = int64(after[i])
		if i < len(before) {
			d[i] -= int64(before[i])
		}
	}
	return d
}
