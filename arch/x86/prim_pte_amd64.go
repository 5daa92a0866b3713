//go:build amd64 && !race

package x86

// storePTEWord is set_pte: a plain move. x86 stores are ordered among
// themselves, and the ptl serialises the writers; an exchange here would cost
// more than everything else in fork's loop.
func storePTEWord(p *uint64, v uint64) { *p = v }
