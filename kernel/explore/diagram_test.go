package explore_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the files in testdata")

// golden compares text with a file in testdata.
func golden(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *rewrite {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), text)
}

// The race that PG_gup has without its second look at the pte (the thread's
// diagram: gup on one CPU, fork and a store on the other), on words of a toy.
const (
	ptePresent = 1 << iota
	pteRW
	pteDirty
)

const pgGUP = 1

type toyMM struct {
	pte     x86.Word64
	flags   x86.Word64
	count   x86.Word32
	ptl     toyLock
	recheck bool
	slot    x86.Word32 // flush requests not yet acknowledged
	slotObj x86.ObjID
	copied  bool // the child got a page of its own
	cow     bool // the parent's store broke the sharing
	pinned  bool
}

var (
	toyPTE   = x86.PTEObj(1, 0, 0x400000)
	toyFlags = x86.PageObj(12, x86.PageFlags)
	toyCount = x86.PageObj(12, x86.PageRef)
)

func (mm *toyMM) getUserPagesFast(t *sched.Task) {
	off := t.C.IRQSave()
	mm.pinned = mm.gupPTERange(t)
	t.C.IRQRestore(off)
}

func (mm *toyMM) gupPTERange(t *sched.Task) bool {
	pte := mm.pte.Load(t.C, toyPTE)
	if pte&pteRW == 0 {
		return false
	}
	mm.count.Add(t.C, toyCount, 1)
	mm.flags.Or(t.C, toyFlags, pgGUP)
	t.C.Fence()
	if mm.recheck && mm.pte.Load(t.C, toyPTE) != pte {
		mm.putPage(t)
		return false
	}
	return true
}

func (mm *toyMM) putPage(t *sched.Task) { mm.count.Add(t.C, toyCount, -1) }

func (mm *toyMM) dupMmap(t *sched.Task) {
	mm.copyPTERange(t)
	mm.flushTLBMM(t)
}

func (mm *toyMM) copyPTERange(t *sched.Task) {
	mm.ptl.lock(t)
	mm.copyOnePTE(t)
	mm.ptl.unlock(t)
}

func (mm *toyMM) copyOnePTE(t *sched.Task) {
	mm.pte.AndNot(t.C, toyPTE, pteRW)
	t.C.Fence()
	if mm.flags.Load(t.C, toyFlags)&pgGUP != 0 && mm.count.Load(t.C, toyCount) > 1 {
		mm.copied = true
		mm.pte.Or(t.C, toyPTE, pteRW)
	}
}

func (mm *toyMM) flushTLBMM(t *sched.Task) {
	mm.slot.AddReturn(t.C, mm.slotObj, 1)
	t.C.SendIPI(t.M.CPU(1-t.C.ID), x86.VecFlush0)
	for n := 1; mm.slot.Peek() != 0; n++ {
		t.C.SpinWait(mm.slotObj, n)
	}
}

func (mm *toyMM) smpInvalidateInterrupt(t *sched.Task) {
	t.C.Point(x86.OpFlushTLB, x86.CPUObj(t.C.ID))
	t.C.Point(x86.OpIPIAck, mm.slotObj)
	mm.slot.Poke(mm.slot.Peek() - 1)
	t.C.Wrote(mm.slotObj)
}

func (mm *toyMM) doWpPage(t *sched.Task) {
	if mm.pte.Load(t.C, toyPTE)&pteRW == 0 {
		mm.cow = true
		mm.pte.Store(t.C, toyPTE, ptePresent|pteRW|pteDirty)
	}
}

func describeToy(mm *toyMM) func(*sched.Machine, x86.ObjID) string {
	return func(_ *sched.Machine, o x86.ObjID) string {
		switch o {
		case toyPTE:
			s := "P"
			if v := mm.pte.Peek(); v&pteRW != 0 {
				s += " RW"
			}
			return s
		case toyFlags:
			if mm.flags.Peek()&pgGUP != 0 {
				return "PG_gup"
			}
			return "-"
		case toyCount:
			return fmt.Sprint(mm.count.Peek())
		}
		return ""
	}
}

// c1 is the target; last receives the toy of the latest run.
func (y *toys) c1(recheck bool, last **toyMM) explore.Target {
	run := func(s sched.Strategy, o sched.Observer) explore.Observation {
		gate := explore.NewGate(s)
		return y.run(gate, o, 2, func(m *sched.Machine) func(*explore.StateHash) (string, string) {
			mm := &toyMM{recheck: recheck, slotObj: m.NewObj(x86.ClassWord), ptl: toyLock{obj: m.NewObj(x86.ClassLock)}}
			if last != nil {
				*last = mm
			}
			mm.pte.Poke(ptePresent | pteRW)
			mm.count.Poke(1)
			m.RegisterIRQ(x86.VecFlush0, mm.smpInvalidateInterrupt)
			start(m, "reader", 0, func(t *sched.Task) {
				gate.Open()
				mm.getUserPagesFast(t)
			})
			start(m, "forker", 1, func(t *sched.Task) {
				mm.dupMmap(t)
				mm.doWpPage(t)
			})
			return func(h *explore.StateHash) (string, string) {
				h.PutUint("count", uint64(mm.count.Peek()))
				if mm.pinned && mm.cow {
					return "lost-read", "the pinned page is the child's, the parent got a copy"
				}
				return explore.Safe, ""
			}
		})
	}
	return explore.Target{Name: "c1", Policy: "pg_gup", Run: run}
}

func TestTheRaceOfTheThread(t *testing.T) {
	y := newToys()
	r := search(t, y.c1(true, nil), explore.Options{Schedules: 3000})
	assert.Equal(t, map[string]uint64{explore.Safe: 3000}, r.ByVerdict)

	var mm *toyMM
	target := y.c1(false, &mm)
	r, err := explore.Search(context.Background(), target, explore.Options{Schedules: 3000, StopAtFirst: true, Workers: 1})
	require.NoError(t, err)
	w := r.Witness("lost-read")
	require.NotNil(t, w)
	s, err := explore.Shrink(context.Background(), target, w.Spec, explore.ShrinkOptions{})
	require.NoError(t, err)
	story := explore.Capture(target, s.Spec, explore.CaptureOptions{
		Describe: func(m *sched.Machine, o x86.ObjID) string { return describeToy(mm)(m, o) },
	})
	assert.Equal(t, s.Observation.State, story.State)
	text := story.Diagram(explore.DiagramOptions{})
	golden(t, "c1.txt", text)
	for _, line := range strings.Split(text, "\n") {
		assert.LessOrEqual(t, len(line), 96)
	}
	assert.Less(t, strings.Count(text, "\n"), 40)
	for _, fn := range []string{"gup_pte_range:", "copy_one_pte:", "flush_tlb_mm:", "do_wp_page:", "<IRQ> smp_invalidate_interrupt:"} {
		assert.Contains(t, text, fn)
	}

	var b bytes.Buffer
	require.NoError(t, story.JSON(&b))
	var back explore.Story
	require.NoError(t, json.Unmarshal(b.Bytes(), &back))
	assert.Equal(t, story.Token, back.Token)
	require.Len(t, back.Steps, len(story.Steps))
	last := back.Steps[len(back.Steps)-1]
	assert.Equal(t, len(back.Steps), last.N)
	for _, st := range back.Steps {
		if st.Func == "copy_one_pte" {
			assert.Equal(t, []string{"copy_one_pte", "copy_pte_range", "dup_mmap"}, st.Stack[:3])
		}
	}
	assert.Equal(t, text, back.Diagram(explore.DiagramOptions{}), "a stored story can be drawn")
}

func TestDiagrams(t *testing.T) {
	y := newToys()
	for _, c := range []struct {
		file, verdict string
		target        explore.Target
		o             explore.DiagramOptions
	}{
		{"counter.txt", "lost-update", y.counter(1, 5, false), explore.DiagramOptions{Width: 80}},
		{"abba.txt", "deadlock", y.abba(true), explore.DiagramOptions{Width: 80}},
		{"locked.txt", explore.Safe, y.counter(1, 0, true), explore.DiagramOptions{Width: 80}},
		{"read.txt", explore.Safe, y.read(true), explore.DiagramOptions{Width: 100}},
		{"short.txt", "lost-update", y.counter(30, 0, false), explore.DiagramOptions{Width: 80, MaxRows: 12, NoHead: true}},
	} {
		t.Run(c.file, func(t *testing.T) {
			w := found(t, c.target, c.verdict)
			spec := w.Spec
			if c.verdict != explore.Safe {
				s, err := explore.Shrink(context.Background(), c.target, spec, explore.ShrinkOptions{})
				require.NoError(t, err)
				spec = s.Spec
			}
			story := explore.Capture(c.target, spec, explore.CaptureOptions{})
			golden(t, c.file, story.Diagram(c.o))
		})
	}
}

func TestAnEmptyDiagramSaysSo(t *testing.T) {
	s := explore.Story{Target: "x", Policy: "y", Verdict: "safe"}
	assert.Contains(t, s.Diagram(explore.DiagramOptions{}), "no step touches")
}

func TestCaptureIsBounded(t *testing.T) {
	y := newToys()
	s := explore.Capture(y.counter(3, 5, false), explore.Spec{Kind: explore.KindRandom}, explore.CaptureOptions{MaxSteps: 10})
	assert.Len(t, s.Steps, 10)
	assert.True(t, s.Truncated)
}

func TestKernelNames(t *testing.T) {
	const m = "github.com/cowlab/cowlab/"
	except := map[string]string{"Thread.Fork": "sys_fork", "odd": "special", "mm.MM.other": "mm_other"}
	for name, want := range map[string]string{
		m + "mm.(*MM).doWpPage":                "do_wp_page",
		m + "mm.(*MM).CopyOnePTE":              "copy_one_pte",
		m + "mm.GetUserPagesFast":              "get_user_pages_fast",
		m + "mm.(*System).dupMmap":             "dup_mmap",
		m + "mm.gupPTERange":                   "gup_pte_range",
		m + "mm.(*MM).FlushTLBMM":              "flush_tlb_mm",
		m + "mm.FlushTLBPage":                  "flush_tlb_page",
		m + "mm.(*MM).unmapVMAs":               "unmap_vmas",
		m + "mm.freePGTables":                  "free_pg_tables",
		m + "mm.HugetlbCOW":                    "hugetlb_cow",
		m + "mm.(*MM).doWpPage.func1":          "do_wp_page",
		m + "mm.(*MM).doWpPage.func1.2":        "do_wp_page",
		m + "mm.walk[...]":                     "walk",
		m + "mm.walk[...].func1":               "walk",
		m + "mm.(*List[...]).popFront":         "pop_front",
		m + "mm.VMA.Pages":                     "pages",
		m + "mm.(*MM).Fault-fm":                "fault",
		m + "fs.(*Dio).bioCompleteAIO":         "bio_complete_aio",
		m + "fs.dioBioEndIO":                   "dio_bio_end_io",
		m + "kernel.(*Thread).Fork":            "sys_fork",
		m + "mm.(*Other).odd":                  "special",
		m + "mm.(*MM).other":                   "mm_other",
		m + "arch/x86.(*CPU).CAS32":            "cas32",
		m + "kernel.do_snake":                  "do_snake",
		"example.com/my.policy/v2.(*P).WPDone": "wp_done",
	} {
		assert.Equal(t, want, explore.KernelName(name, except), name)
	}
}
