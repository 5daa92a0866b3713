package mm

import (
	"fmt"
	"strings"
)

// Maps returns the mappings as text, one line each, as /proc/pid/maps shows them. The
// offset of anonymous memory is shown as zero, as Linux does since 2.6.30, so that the
// text can be compared with a host's.
//
// Preconditions:
//   - mmap_sem is held, for reading at least, or nothing is running
func (m *MM) Maps() string {
	var b strings.Builder
	m.EachVMA(0, func(v *VMA) bool {
		line := v.String()
		b.WriteString(line)
		if name := m.vmaName(v); name != "" {
			fmt.Fprintf(&b, "%*s%s", max(1, 73-len(line)), "", name)
		}
		b.WriteByte('\n')
		return true
	})
	return b.String()
}

// String returns the line of /proc/pid/maps for v, without the name.
func (v *VMA) String() string {
	off := uint64(0)
	if v.Mapping != nil {
		off = v.PgOff << 12
	}
	return fmt.Sprintf("%08x-%08x %s %08x 00:00 0", v.Start, v.End, v.Flags, off)
}

// String returns the permissions as /proc/pid/maps shows them, such as "rw-p".
func (f VMFlags) String() string {
	b := []byte("---p")
	for i, c := range "rwx" {
		if f&(VMRead<<i) != 0 {
			b[i] = byte(c)
		}
	}
	if f&VMMayShare != 0 {
		b[3] = 's'
	}
	return string(b)
}

// vmaName is the last column of /proc/pid/maps.
func (m *MM) vmaName(v *VMA) string {
	switch {
	case v.File != nil:
		return v.File.Name()
	case m.Brk > m.StartBrk && v.Start <= m.Brk && v.End >= m.StartBrk:
		return "[heap]"
	case v.Start < m.StackTop && v.End >= m.StackTop:
		return "[stack]"
	}
	return ""
}

// DebugString is Maps with the flags, anon_vma and counts of each VMA: for reports and
// failing tests. The same preconditions hold.
func (m *MM) DebugString() string {
	var b strings.Builder
	fmt.Fprintf(&b, "mm %d: %d VMAs, %d pages mapped, %d locked, rss %d anon %d file, brk %#x-%#x\n",
		m.ID, m.MapCount, m.TotalVM, m.LockedVM, m.AnonRSS.Peek(), m.FileRSS.Peek(), m.StartBrk, m.Brk)
	m.EachVMA(0, func(v *VMA) bool {
		fmt.Fprintf(&b, "  %s flags %#x pgoff %#x", v, uint64(v.Flags), v.PgOff)
		if a := v.anonVMA(); a != nil {
			fmt.Fprintf(&b, " anon_vma %d", a.slot)
		}
		if v.Policy != 0 {
			fmt.Fprintf(&b, " policy %#x", v.Policy)
		}
		if name := m.vmaName(v); name != "" {
			b.WriteString(" " + name)
		}
		b.WriteByte('\n')
		return true
	})
	return b.String()
}
