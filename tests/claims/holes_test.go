package claims

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/workload"
)

const findingsDoc = "../../docs/findings.md"

// noHoles are the sections of docs/findings.md that tell of no patch's hole, and why.
func noHoles() map[int]string {
	return map[int]string{
		4:  "a claim's race, in a patch less a line; drawn in mm/policy/testdata/c1.txt",
		27: "nothing is lost",
		28: "nothing is lost",
		29: "nothing is lost",
		36: "nothing is lost",
	}
}

// drawing is the file of the root that draws a hole.
func (h hole) drawing() string {
	return fmt.Sprintf("tests/claims/testdata/%02d-%s.txt", h.number, h.program)
}

// sections are those of docs/findings.md, by number.
func sections(t *testing.T) map[int]string {
	t.Helper()
	text, err := os.ReadFile(findingsDoc)
	require.NoError(t, err)
	out := map[int]string{}
	heads := regexp.MustCompile(`(?m)^## ([0-9]+)\. |^# `)
	at := heads.FindAllSubmatchIndex(text, -1)
	for i, m := range at {
		if m[2] < 0 {
			continue
		}
		n, err := strconv.Atoi(string(text[m[2]:m[3]]))
		require.NoError(t, err)
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		out[n] = string(text[m[0]:end])
	}
	require.NotEmpty(t, out)
	return out
}

// TestHolesAreDrawn searches each hole of docs/findings.md in its smallest program, takes the
// switches out that it does not need, and compares the drawing with the one that is stored.
// tests/spec draws those that random programs found.
//
//	go test ./tests/claims -run HolesAreDrawn -rewrite
func TestHolesAreDrawn(t *testing.T) {
	if raceBuild {
		t.Skip("searches of one goroutine; builds without the race detector run it")
	}
	hosts := kernel.NewHosts()
	defer hosts.Close()
	l := newLab(t.Context(), Options{Schedules: DefaultSchedules / 4}, hosts)
	drawn := map[string]bool{}
	for _, h := range holes() {
		file := "../../" + h.drawing()
		if drawn[file] || drawnBySpec(h.program) {
			continue
		}
		drawn[file] = true
		r := l.find(h)
		w := r.witness(h.verdict)
		if !assert.NotNil(t, w, "%d. %s: no %s in %s", h.number, r.Name(), h.verdict, r.bound()) {
			continue
		}
		got := h.draw(t, l, w)
		if *rewriteThread {
			require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		}
		want, err := os.ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, string(want), got, "to record it anew: go test ./tests/claims -run HolesAreDrawn -rewrite")
	}
	there, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	for _, f := range there {
		assert.True(t, drawn["../../tests/claims/"+f], "%s is the drawing of no hole", f)
	}
}

// draw takes out of a schedule the switches that the hole does not need, and draws it. Where
// no device is at work, nobody meets anybody, or a huge page is copied, it is what is done to page tables and pages,
// and to locks where that is the point.
func (h hole) draw(t *testing.T, l *Lab, w *explore.Witness) string {
	t.Helper()
	plain, err := target(h.program, l.Policy(h.policy), l.hosts)
	require.NoError(t, err)
	tgt := *judged(*plain, h.verdict)
	says, runs, capture := said(w.Detail), 60, matrix.CaptureOptions()
	capture.Snapshot = nil
	if h.verdict == workload.Livelock {
		runs, capture.MaxSteps = 6, 400 // the loop is short, and a run of it is long
	}
	least, err := explore.Shrink(t.Context(), tgt, w.Spec, explore.ShrinkOptions{Runs: runs, Same: func(o explore.Observation) bool {
		return o.Verdict == w.Verdict && (h.verdict != workload.Bug || said(o.Detail) == says)
	}})
	require.NoError(t, err)
	o := explore.DiagramOptions{Width: 120, MaxRows: 45}
	st := explore.Capture(tgt, least.Spec, capture)
	lanes, device, huge := map[int]bool{}, false, false
	for i := range st.Steps {
		s := &st.Steps[i]
		if s.Shown {
			lanes[s.CPU] = true
		}
		device = device || s.OpID == x86.OpDMARead || s.OpID == x86.OpDMAWrite
		huge = huge || s.Func == "copy_huge_page" // a thousand rows
	}
	if huge || len(lanes) < 2 || h.verdict == workload.Livelock || !device && h.verdict != workload.Deadlock {
		o.Show = func(s *explore.Step) bool {
			switch s.ObjID.Class() {
			case x86.ClassPTE:
				return strings.HasPrefix(s.Object, "pte") || strings.Contains(s.Before+s.After, "page")
			case x86.ClassPage:
				return !slices.Contains([]string{"flush_mmu", "mmdrop", "schedule"}, s.Func)
			case x86.ClassFrame:
				return !slices.Contains([]string{"make_table", "new_mm"}, s.Func) && (s.Func != "copy_huge_page" && s.Func != "clear_huge_page" || s.Bytes != nil)
			}
			return s.ObjID.Class() == x86.ClassLock && h.verdict == workload.Deadlock
		}
		return st.Diagram(o)
	}
	return matrix.Tell(&tgt, least.Spec).Diagram(o)
}

// drawnBySpec reports whether tests/spec has the drawing of a program.
func drawnBySpec(program string) bool {
	_, err := os.Stat("../spec/testdata/" + program + ".txt")
	return err == nil
}

// said is what a complaint says, without what it says it of.
func said(detail string) string {
	line, _, _ := strings.Cut(detail, " (")
	return regexp.MustCompile(`[0-9][0-9a-fx]*`).ReplaceAllString(line, "#")
}

// TestFindingsAreKept: each section of docs/findings.md that tells of a hole names the scenario
// or the token that shows it and where it is drawn; and the holes that claim C32 runs are those.
func TestFindingsAreKept(t *testing.T) {
	all := sections(t)
	command := regexp.MustCompile("`cowlab (litmus|replay|claims) ([^ `]+)")
	drawing := regexp.MustCompile("`([a-z/]+/testdata/[A-Za-z0-9-]+\\.txt)`")
	for _, n := range slices.Sorted(maps.Keys(all)) {
		if noHoles()[n] != "" {
			continue
		}
		text := strings.ReplaceAll(all[n], "\n", " ")
		shows := 0
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			switch m[1] {
			case "litmus":
				shows++
				if _, err := scenarios.Lookup(m[2]); err != nil {
					_, err = scenarios.Load("../../" + m[2])
					assert.NoError(t, err, "finding %d: cowlab litmus %s", n, m[2])
				}
			case "replay": // cmd/cli replays it
				shows++
			}
		}
		assert.NotZero(t, shows, "finding %d names no scenario (`cowlab litmus NAME`) and no token (`cowlab replay TOKEN`)", n)
		_, drawn, ok := strings.Cut(text, "drawn in ")
		files := drawing.FindAllStringSubmatch(drawn, -1)
		assert.True(t, ok && len(files) > 0, "finding %d does not say where it is drawn (\"drawn in `FILE`\")", n)
		for _, m := range files {
			_, err := os.Stat("../../" + m[1])
			assert.NoError(t, err, "finding %d", n)
		}
	}
	for _, h := range holes() {
		text := all[h.number]
		assert.Empty(t, noHoles()[h.number], "finding %d is a hole", h.number)
		token := "cl1." + strings.ReplaceAll(h.program, "-", "--")
		assert.True(t, strings.Contains(text, "`cowlab litmus "+h.program) || strings.Contains(text, token), "finding %d does not name %s", h.number, h.program)
		if !drawnBySpec(h.program) {
			assert.Contains(t, text, "`"+h.drawing()+"`")
		}
	}
}
