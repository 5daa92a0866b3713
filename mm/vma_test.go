package mm

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// window is where the tests of VMAs map things: pages are numbered from here.
const window = uint64(0x100_0000_0000)

func at(page int) uint64 { return window + uint64(page)*pg }

func timed() rigOptions { return rigOptions{Options: sched.Options{Regime: sched.Timed}} }

// plainFile is a file that can be mapped; closer is one that wants to know.
type plainFile struct {
	name   string
	mode   FileMode
	refs   int
	flags  VMFlags // added to each VMA
	err    error
	mapped int
}

func (f *plainFile) Get(*sched.Task) { f.refs++ }
func (f *plainFile) Put(*sched.Task) { f.refs-- }
func (f *plainFile) Name() string    { return f.name }
func (f *plainFile) Mode() FileMode  { return f.mode }
func (f *plainFile) Mmap(_ *sched.Task, v *VMA) error {
	v.Flags |= f.flags
	f.mapped++
	return f.err
}

type closer struct {
	plainFile
	opened, closed int
}

func (f *closer) Open(*sched.Task, *VMA)  { f.opened++ }
func (f *closer) Close(*sched.Task, *VMA) { f.closed++ }

// vmaScript is a small language for sequences of calls. Statements are separated by
// semicolons, pages are numbered in the window, ranges are half-open:
//
//	map 0-3 rw      private anonymous memory (rwx, or - for none)
//	shm 0-3 rw      shared anonymous memory
//	file 0-3 rw 5   private mapping of the test's file from page 5 on
//	cfile 0-3 rw 5  the same of a file with open and close
//	touch 1         store, so that the VMA gets an anon_vma
//	prot 0-3 r      mprotect
//	unmap 0-3
//	advise 0-3 10   madvise
//	flag 1 io       set a flag of the VMA behind the kernel's back
//	fork            go on in a child
type vmaScript struct {
	u     *user
	file  *plainFile
	cfile *closer
	as    *AddressSpace
}

func newVMAScript(u *user) *vmaScript {
	rw := FModeRead | FModeWrite
	return &vmaScript{u: u, file: &plainFile{name: "file", mode: rw}, cfile: &closer{plainFile: plainFile{name: "cfile", mode: rw}},
		as: u.s.NewAddressSpace(shmemOps{}, nil, 1000)}
}

func parseProt(s string) (p Prot) {
	for i, c := range "rwx" {
		if strings.ContainsRune(s, c) {
			p |= 1 << i
		}
	}
	return p
}

func (k *vmaScript) run(script string) {
	for stmt := range strings.SplitSeq(script, ";") {
		if f := strings.Fields(stmt); len(f) > 0 {
			if err := k.statement(f); err != nil {
				panic(fmt.Sprintf("%s: %v", stmt, err))
			}
		}
	}
}

func (k *vmaScript) statement(f []string) (err error) {
	lo, hi, _ := strings.Cut(f[1], "-")
	a, _ := strconv.Atoi(lo)
	b, _ := strconv.Atoi(hi)
	start, size := at(a), uint64(b-a)*pg
	u := k.u
	arg := func(i int) int {
		n, err := strconv.Atoi(f[i])
		if err != nil {
			panic(err)
		}
		return n
	}
	mmap := func(req MmapRequest) {
		req.Addr, req.Len, req.Prot = start, size, parseProt(f[2])
		req.Flags |= MapFixed
		u.kernel(func(t *sched.Task) {
			off := req.PgOff * pg
			_, err = SysMmap(t, u.mm, req, off)
		})
	}
	switch f[0] {
	case "map":
		mmap(MmapRequest{Flags: MapPrivate | MapAnonymous})
	case "shm":
		mmap(MmapRequest{Flags: MapShared | MapAnonymous})
	case "file":
		mmap(MmapRequest{Flags: MapPrivate, File: k.file, Mapping: k.as, PgOff: uint64(arg(3))})
	case "cfile":
		mmap(MmapRequest{Flags: MapPrivate, File: k.cfile, Mapping: k.as, PgOff: uint64(arg(3))})
	case "touch":
		u.store(start, uint64(a)+1)
	case "prot":
		u.kernel(func(t *sched.Task) { err = SysMprotect(t, u.mm, start, size, parseProt(f[2])) })
	case "unmap":
		u.kernel(func(t *sched.Task) { err = SysMunmap(t, u.mm, start, size) })
	case "advise":
		u.kernel(func(t *sched.Task) { err = SysMadvise(t, u.mm, start, size, Advice(arg(2))) })
	case "flag":
		v := u.mm.lookupVMA(start)
		v.Flags |= map[string]VMFlags{"io": VMIO, "dontexpand": VMDontExpand, "pfnmap": VMPFNMap}[f[2]]
	default:
		panic("statement " + f[0])
	}
	return err
}

// layout describes the VMAs: "0-3:rw" with "+5" for the offset of a file, and letters
// for anon_vmas, in order of appearance.
func (k *vmaScript) layout() string {
	var out []string
	names := map[*AnonVMA]string{}
	k.u.mm.EachVMA(0, func(v *VMA) bool {
		perms := strings.ReplaceAll(v.Flags.String()[:3], "-", "")
		s := fmt.Sprintf("%d-%d:%s", (v.Start-window)/pg, (v.End-window)/pg, perms)
		if v.Mapping != nil {
			s += fmt.Sprintf("+%d", v.PgOff)
		} else if v.PgOff != v.Start/pg {
			s += "!"
		}
		if v.AnonVMA != nil {
			if names[v.AnonVMA] == "" {
				names[v.AnonVMA] = "@" + string(rune('a'+len(names)))
			}
			s += names[v.AnonVMA]
		}
		out = append(out, s)
		return true
	})
	return strings.Join(out, " ")
}

// mergeCases are the cases of vma_merge and of the kernel's own tests of it, as they
// come out under the rules of 2.6.29.
var mergeCases = []struct{ name, script, want string }{
	// A new mapping and its neighbours.
	{"new alone", "map 0-3 rw", "0-3:rw"},
	{"new, other permissions", "map 0-3 rw; map 3-6 r", "0-3:rw 3-6:r"},
	{"case 1: fills the hole", "map 0-1 rw; map 2-3 rw; map 1-2 rw", "0-3:rw"},
	{"case 2: extends prev", "map 0-2 rw; map 2-3 rw", "0-3:rw"},
	{"case 3: extends next downwards", "map 2-4 rw; map 0-2 rw", "0-4:rw"},
	{"new between, prev only", "map 0-2 rw; map 4-6 r; map 2-4 rw", "0-4:rw 4-6:r"},
	{"new between, next only", "map 0-2 r; map 4-6 rw; map 2-4 rw", "0-2:r 2-6:rw"},
	{"growing row", "map 0-2 rw; map 3-4 rw; map 10-12 rw; map 7-9 rw; map 2-3 rw; map 4-5 rw; map 6-7 rw; map 9-10 rw; map 5-6 rw", "0-12:rw"},
	{"over an existing one", "map 0-6 rw; map 2-4 r; map 2-4 rw", "0-6:rw"},
	{"no merge without touching", "map 0-2 rw; map 3-4 rw", "0-2:rw 3-4:rw"},

	// anon_vmas.
	{"new, prev has one", "map 0-2 rw; touch 0; map 2-4 rw", "0-4:rw@a"},
	{"new, next has one", "map 2-4 rw; touch 2; map 0-2 rw", "0-4:rw@a"},
	{"case 1, prev has one", "map 0-2 rw; touch 0; map 4-6 rw; map 2-4 rw", "0-6:rw@a"},
	{"case 1, next has one: prev adopts it", "map 0-2 rw; map 4-6 rw; touch 4; map 2-4 rw", "0-6:rw@a"},
	{"different ones: prev only", "map 0-2 rw; touch 0; map 4-6 rw; touch 4; map 2-4 rw", "0-4:rw@a 4-6:rw@b"},
	{"neighbours get the same one", "map 0-2 rw; map 2-4 r; touch 0; prot 2-4 rw", "0-4:rw@a"},
	{"neighbours with other permissions share", "map 0-2 rw; map 2-4 rwx; touch 0; touch 2", "0-2:rw@a 2-4:rwx@a"},
	{"and so they do upwards", "map 2-4 rw; touch 2; map 0-2 rwx; touch 0", "0-2:rwx@a 2-4:rw@a"},
	{"next is asked before prev", "map 0-2 rw; touch 0; map 4-6 rw; touch 4; map 2-4 rwx; touch 2", "0-2:rw@a 2-4:rwx@b 4-6:rw@b"},
	{"shared ones merge again", "map 0-2 rw; map 2-4 rwx; touch 0; touch 2; prot 2-4 rw", "0-4:rw@a"},
	{"modify between different ones: prev only", "map 0-2 rw; touch 0; map 4-6 rw; touch 4; map 2-4 r; prot 2-4 rw", "0-4:rw@a 4-6:rw@b"},
	{"untouched middle takes prev's", "map 0-2 rw; touch 0; map 2-4 r; map 4-6 rw; prot 2-4 rw", "0-6:rw@a"},
	{"touched middle, prev adopts", "map 0-2 rwx; map 2-4 rw; touch 2; prot 2-4 rwx", "0-4:rwx@a"},
	{"touched middle, next adopts", "map 2-4 rwx; map 0-2 rw; touch 0; prot 0-2 rwx", "0-4:rwx@a"},
	{"touched middle, both adopt", "map 0-2 rwx; map 2-4 rw; map 4-6 rwx; touch 2; prot 2-4 rwx", "0-6:rwx@a"},
	{"case 5, prev adopts", "map 0-2 rwx; map 2-6 rw; touch 2; prot 2-4 rwx", "0-4:rwx@a 4-6:rw@a"},
	{"case 4, next adopts", "map 0-4 rw; touch 0; map 4-6 rwx; prot 2-4 rwx", "0-2:rw@a 2-6:rwx@a"},
	{"split shares", "map 0-6 rw; touch 0; prot 2-4 r", "0-2:rw@a 2-4:r@a 4-6:rw@a"},
	{"unmapping the middle shares", "map 0-6 rw; touch 0; unmap 2-4", "0-2:rw@a 4-6:rw@a"},
	{"and the hole fills again", "map 0-6 rw; touch 0; unmap 2-4; map 2-4 rw", "0-6:rw@a"},

	// mprotect in the middle, at the ends, over several.
	{"modify the middle", "map 0-3 rw; prot 1-2 r", "0-1:rw 1-2:r 2-3:rw"},
	{"modify and back", "map 0-3 rw; prot 1-2 r; prot 1-2 rw", "0-3:rw"},
	{"case 4: tail to next", "map 0-4 rw; map 4-6 rwx; prot 2-4 rwx", "0-2:rw 2-6:rwx"},
	{"case 5: head to prev", "map 0-2 rwx; map 2-6 rw; prot 2-4 rwx", "0-4:rwx 4-6:rw"},
	{"case 6: whole, both", "map 0-2 rwx; map 2-4 rw; map 4-6 rwx; prot 2-4 rwx", "0-6:rwx"},
	{"case 7: whole, prev", "map 0-2 rwx; map 2-4 rw; map 4-6 x; prot 2-4 rwx", "0-4:rwx 4-6:x"},
	{"case 8: whole, next", "map 0-2 x; map 2-4 rw; map 4-6 rwx; prot 2-4 rwx", "0-2:x 2-6:rwx"},
	{"case 8 without prev", "map 2-4 rw; map 4-6 rwx; prot 2-4 rwx", "2-6:rwx"},
	{"head, nothing before", "map 0-4 rw; prot 0-2 r", "0-2:r 2-4:rw"},
	{"interior ranges do not merge", "map 0-2 r; map 2-8 rw; map 8-9 r; prot 3-7 r; prot 4-5 rw", "0-2:r 2-3:rw 3-4:r 4-5:rw 5-7:r 7-8:rw 8-9:r"},
	{"over three", "map 0-2 rw; map 2-4 rwx; map 4-6 rw; prot 0-6 rwx", "0-6:rwx"},
	{"over three, never writable", "map 0-2 r; map 2-4 rx; map 4-6 x; prot 0-6 r", "0-6:r"},
	{"nothing changes", "map 0-2 r; map 2-4 rw; prot 0-2 r", "0-2:r 2-4:rw"},

	// A mapping that was writable stays charged (VM_ACCOUNT), which is a flag.
	{"charged and uncharged", "map 0-2 r; map 2-4 rw; prot 2-4 r", "0-2:r 2-4:r"},
	{"both charged in the end", "map 0-2 r; map 2-4 rw; prot 0-2 rw", "0-4:rw"},

	// Files: the offset must go on.
	{"file, offsets go on", "file 0-2 r 5; file 2-4 r 7", "0-4:r+5"},
	{"file, downwards", "file 2-4 r 7; file 0-2 r 5", "0-4:r+5"},
	{"file, offsets do not go on", "file 0-2 r 5; file 2-4 r 8", "0-2:r+5 2-4:r+8"},
	{"file, hole filled", "file 0-2 r 5; file 4-6 r 9; file 2-4 r 7", "0-6:r+5"},
	{"file and anonymous", "file 0-2 r 5; map 2-4 r", "0-2:r+5 2-4:r"},
	{"file split", "file 0-6 rw 5; prot 2-4 r", "0-2:rw+5 2-4:r+7 4-6:rw+9"},
	{"file touched", "file 0-2 rw 5; touch 0; file 2-4 rw 7", "0-4:rw+5@a"},
	{"file, start unmapped", "file 0-6 rw 5; unmap 0-2", "2-6:rw+7"},

	// Shared anonymous memory is an object for each mmap.
	{"shared do not merge", "shm 0-2 rw; shm 2-4 rw", "0-2:rw+0 2-4:rw+0"},
	{"shared splits and heals", "shm 0-6 rw; prot 2-4 r; prot 2-4 rw", "0-6:rw+0"},

	// Close operations: 2.6.29 does not look at which of the two would go.
	{"close, new behind", "cfile 0-2 r 5; cfile 2-4 r 7", "0-2:r+5 2-4:r+7"},
	{"close, split stays split", "cfile 0-6 rw 5; prot 2-4 r; prot 2-4 rw", "0-2:rw+5 2-4:rw+7 4-6:rw+9"},

	// madvise's flags.
	{"advice splits", "map 0-6 rw; advise 2-4 1", "0-2:rw 2-4:rw 4-6:rw"},
	{"advice heals", "map 0-6 rw; advise 2-4 1; advise 0-6 0", "0-6:rw"},
	{"dontfork and dofork", "map 0-6 rw; advise 2-4 10; advise 2-4 11", "0-6:rw"},
	{"dontfork, neighbour too", "map 0-6 rw; advise 2-4 10; advise 4-6 10", "0-2:rw 2-6:rw"},
	{"dontfork, tail to next", "map 0-6 rw; advise 4-6 10; advise 2-4 10", "0-2:rw 2-6:rw"},
	{"dontfork, all but an end", "map 0-6 rw; advise 0-1 10; advise 0-5 10", "0-5:rw 5-6:rw"},
	{"dontfork, touched", "map 0-6 rw; touch 3; advise 2-4 10", "0-2:rw@a 2-4:rw@a 4-6:rw@a"},
}

func TestVMAMerge(t *testing.T) {
	for _, c := range mergeCases {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			r := boot(t, timed())
			var k *vmaScript
			r.run(func(u *user) {
				k = newVMAScript(u)
				k.run(c.script)
				assert.Equal(t, c.want, k.layout())
				assert.NoError(t, u.mm.validateMM())
				assert.NoError(t, k.unmerged())
				total := uint64(0)
				u.mm.EachVMA(0, func(v *VMA) bool { total += v.Pages(); return true })
				assert.Equal(t, total, u.mm.TotalVM)
				assert.Empty(t, u.s.Check())
			})
			assert.Zero(t, k.file.refs)
			assert.Zero(t, k.cfile.refs)
			assert.Equal(t, k.cfile.mapped+k.cfile.opened, k.cfile.closed)
			assert.Zero(t, r.s.CommittedPages())
			r.endWith(k)
		})
	}
}

// endWith is end for a script that has made an AddressSpace.
func (r *rig) endWith(k *vmaScript) {
	r.tb.Helper()
	r.m.Start(nil, r.m.NewTask(sched.TaskOptions{Name: "put"}, k.as.Put))
	res := r.m.Run()
	require.NoError(r.tb, res.Err(), "%s", res.Detail)
	r.end()
}

// unmerged returns two neighbours that 2.6.29 would have merged.
func (k *vmaScript) unmerged() (err error) {
	var prev *VMA
	k.u.mm.EachVMA(0, func(v *VMA) bool {
		if prev != nil && prev.End == v.Start && prev.Flags&VMSpecial == 0 {
			key := v.keyAt(v.Start, v.Flags)
			if canVMAMergeAfter(prev, &key) {
				err = fmt.Errorf("%s and %s could be one", prev, v)
			}
		}
		prev = v
		return true
	})
	return err
}

func TestSpecialVMAsNeverMerge(t *testing.T) {
	for _, flag := range []string{"io", "dontexpand", "pfnmap"} {
		t.Run(flag, func(t *testing.T) {
			r := boot(t, timed())
			r.run(func(u *user) {
				k := newVMAScript(u)
				k.run("map 0-2 rw; flag 0 " + flag)
				// Neither a new neighbour nor a changed one, even with the same flag.
				key := u.mm.lookupVMA(at(0)).keyAt(at(0), u.mm.lookupVMA(at(0)).Flags)
				key.pgoff = at(2) / pg
				u.kernel(func(t2 *sched.Task) {
					u.mm.MmapSem.DownWrite(t2)
					assert.Nil(t, u.mm.vmaMerge(t2, u.mm.lookupVMA(at(0)), at(2), at(4), key))
					u.mm.MmapSem.UpWrite(t2)
				})
				k.run("map 2-4 rw; flag 2 " + flag + "; prot 2-4 r")
				assert.Equal(t, "0-2:rw 2-4:r", k.layout())
				k.run("prot 2-4 rw")
				assert.Equal(t, "0-2:rw 2-4:rw", k.layout())
				k.as.Put(u.t)
			})
			r.end()
		})
	}
}

// In 2.6.29 a forked VMA has its parent's anon_vma, and merges like any other: there
// are no chains that would tell a child's VMA from its parent's.
func TestForkedVMAMerges(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		k := newVMAScript(u)
		k.run("map 0-2 rw; touch 0")
		u.wait(u.fork(func(c *user) {
			ck := *k
			ck.u = c
			ck.run("map 2-4 rw; touch 3")
			assert.Equal(t, "0-4:rw@a", ck.layout())
			assert.Same(t, u.mm.lookupVMA(at(0)).AnonVMA, c.mm.lookupVMA(at(0)).AnonVMA)
		}))
		k.run("map 2-4 rw; touch 3")
		assert.Equal(t, "0-4:rw@a", k.layout())
		k.as.Put(u.t)
	})
	r.end()
}

func TestSplitLimits(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		k := newVMAScript(u)
		k.run("map 0-6 rw")
		kern := func(f func(t *sched.Task) error) (err error) {
			u.kernel(func(t *sched.Task) { err = f(t) })
			return err
		}
		count := u.mm.MapCount
		u.mm.MapCount = maxMapCount
		assert.Equal(t, unix.ENOMEM, kern(func(t *sched.Task) error { return SysMunmap(t, u.mm, at(2), pg) }))
		assert.Equal(t, unix.ENOMEM, kern(func(t *sched.Task) error { return SysMprotect(t, u.mm, at(2), pg, ProtRead) }))
		assert.Equal(t, unix.EAGAIN, kern(func(t *sched.Task) error { return SysMadvise(t, u.mm, at(2), pg, MadvDontFork) }))
		// mmap asks for more than the limit, split for no less.
		u.mm.MapCount++
		assert.Equal(t, unix.ENOMEM, kern(func(t *sched.Task) error {
			_, err := SysMmap(t, u.mm, MmapRequest{Len: pg, Flags: MapPrivate | MapAnonymous}, 0)
			return err
		}))
		u.mm.MapCount = count
		assert.Equal(t, "0-6:rw", k.layout())

		// With room for one split only, the first half of a change stays.
		u.mm.MapCount = maxMapCount - 1
		assert.Equal(t, unix.ENOMEM, kern(func(t *sched.Task) error { return SysMprotect(t, u.mm, at(2), pg, ProtRead) }))
		assert.Equal(t, "0-2:rw 2-6:rw", k.layout())
		u.mm.MapCount = count + 1
		k.as.Put(u.t)
	})
	r.end()
}

func TestFindVMA(t *testing.T) {
	r := boot(t, timed())
	r.run(func(u *user) {
		k := newVMAScript(u)
		for i := range 200 {
			k.run(fmt.Sprintf("map %d-%d rw", 3*i, 3*i+2))
		}
		m := u.mm
		for p := -1; p < 601; p++ {
			addr := at(0) + uint64(int64(p)*pg) + 7
			v, prev := m.findVMAPrev(u.t, addr)
			want := max(p+1, 0) / 3 // a page in a hole belongs to the next
			if p < 0 {
				want = 0
			}
			if want < 200 {
				if assert.NotNil(t, v) {
					assert.Equal(t, at(3*want), v.Start, "page %d", p)
				}
			} else {
				assert.Nil(t, v)
			}
			if want > 0 {
				if assert.NotNil(t, prev) {
					assert.Equal(t, at(3*(want-1)), prev.Start, "page %d", p)
				}
			} else {
				assert.Nil(t, prev)
			}
			assert.Equal(t, v, m.lookupVMA(addr))
			assert.Equal(t, v != nil && v.Start < addr+pg, m.findVMAIntersection(u.t, addr, addr+pg) != nil)
		}
		assert.Nil(t, m.findVMAIntersection(u.t, at(2), at(3)))
		assert.Equal(t, 200, m.MapCount)
		n := 0
		for v := m.firstVMA(); v != nil; v = m.nextVMA(v) {
			n++
		}
		assert.Equal(t, 200, n)
		n = 0
		m.EachVMA(at(30), func(*VMA) bool { n++; return n < 5 })
		assert.Equal(t, 5, n)
		i := 0
		assert.Zero(t, testing.AllocsPerRun(100, func() {
			i++
			m.findVMA(u.t, at(i*7%600))
			m.findVMAPrev(u.t, at(i*5%600))
		}))
		// A hint must not outlive its VMA.
		v := m.findVMA(u.t, at(30))
		assert.Same(t, v, m.hints[u.t.C.ID].vma)
		k.run("unmap 30-32")
		assert.NotSame(t, v, m.findVMA(u.t, at(30)))
		assert.NoError(t, m.validateMM())
		k.as.Put(u.t)
	})
	r.end()
}

func BenchmarkFindVMA(b *testing.B) {
	for _, n := range []int{1, 8, 64, 1000, 60000} {
		for _, how := range []string{"hint", "spread"} {
			b.Run(fmt.Sprintf("%s/%d", how, n), func(b *testing.B) {
				r := boot(b, rigOptions{bytes: 64 << 20})
				r.run(func(u *user) {
					for i := range n {
						u.mm.treeInsert(&VMA{MM: u.mm, Start: at(2 * i), End: at(2*i + 1), Prot: x86.PteNX})
					}
					rnd := uint64(1)
					for b.Loop() {
						if how == "spread" {
							rnd = rnd*6364136223846793005 + 1
						}
						u.mm.findVMA(u.t, at(2*int(rnd>>33)%(2*n)))
					}
					u.mm.dropTree()
				})
			})
		}
	}
}
