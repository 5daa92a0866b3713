package matrix

import (
	"context"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// find searches stock on a workload for a verdict and minimises the schedule.
func find(t *testing.T, name string, v workload.Verdict) (*explore.Target, explore.Spec) {
	w := workload.Lookup(name)
	hosts := kernel.NewHosts()
	t.Cleanup(hosts.Close)
	target := Target(w, w.Values(true), policy.Stock{}, hosts)
	rep, err := explore.Search(context.Background(), *target, explore.Options{
		Schedules: 600, Seed: 1, StopAtFirst: true, Bad: func(got string) bool { return got == string(v) },
	})
	require.NoError(t, err)
	wit := rep.Witness(string(v))
	require.NotNil(t, wit, "%s shows no %s", name, v)
	least, err := explore.Shrink(context.Background(), *target, wit.Spec, explore.ShrinkOptions{Runs: 150})
	require.NoError(t, err)
	return &least.Target, least.Spec
}

// The diagram of each workload's corruption fits a screen or two and has, in this
// order, what a person has to see.
func TestStories(t *testing.T) {
	forward := []string{
		`gup_pte_range:\n.*read pte of mm 1: page N RW`, // it is pinned
		`add _count of page N`,
		`rmw pte of mm 1: page N RW A?D? -> RO A?D?`, // fork write-protects
		`write pte of mm 2: none -> page N`,
		`cow_user_page:\n.*copy read page N\+0`, // a store copies
		`rmw pte of mm 1: page N RO A?D? -> none`,
		`write pte of mm 1: none -> page \d+ RW`,
		`dma write page N\+`, // and the device writes where nobody looks
		`=> lost-read: `,
	}
	for _, c := range []struct {
		workload string
		verdict  workload.Verdict
		want     []string
	}{
		{"forkscrew", workload.LostRead, forward},
		{"dma_thread", workload.LostRead, forward},
		{"pin_fork", workload.LostRead, forward},
		{"forkscrewreverse", workload.LeakToDisk, []string{
			`rmw pte of mm 1: page N RW A?D? -> RO A?D?`,
			`gup_pte_range:\n.*read pte of mm 1: page N RO`, // pinned for reading
			`copy read page N\+0`,
			`reuse_swap_page:\n.*read _mapcount of page N: 1`, // the child is alone with it
			`write pte of mm 2: page N RO A?D? -> RW A?D?`,
			`store page N\+0`,
			`dma read page N\+`,
			`=> leak-to-disk: `,
		}},
	} {
		t.Run(c.workload, func(t *testing.T) {
			t.Parallel()
			target, spec := find(t, c.workload, c.verdict)
			story := Tell(target, spec)
			text := story.Diagram(explore.DiagramOptions{NoHead: true})
			m := regexp.MustCompile(`^Page (\d+) is what the device (reads|writes to)`).FindStringSubmatch(story.Legend)
			require.NotNil(t, m, "no page is followed: %s\n%s", story.Legend, text)
			assert.Equal(t, c.verdict == workload.LeakToDisk, m[2] == "reads")
			assert.Less(t, strings.Count(text, "\n"), 75, "too long:\n%s", text)
			order := strings.ReplaceAll(strings.Join(c.want, `(?s:.*?)`), "page N", "page "+m[1])
			assert.Regexp(t, order, text)
			if c.workload != "pin_fork" { // its device is a driver on a CPU
				assert.Regexp(t, `CPU 0 .* device\n`, text, "devices have a lane")
			}
		})
	}
}

// A run without a finding is told too; one that ends in a deadlock is explore's.
func TestStoryWithoutFinding(t *testing.T) {
	w := workload.Lookup("forkscrew")
	hosts := kernel.NewHosts()
	defer hosts.Close()
	target := Target(w, w.Values(true), policy.PGGUP{}, hosts)
	story := Tell(target, explore.Spec{Kind: explore.KindSwitches})
	assert.Equal(t, explore.Safe, story.Verdict)
	text := story.Diagram(explore.DiagramOptions{})
	assert.Contains(t, text, "dma write")
	assert.Contains(t, text, "policy0", "the policy's mark on the page is part of the story")
	assert.Nil(t, newPlot(nil, 0))
}

// Minimising ends with the least of the program that still goes wrong.
func TestShrinkTakesLessOfTheWorkload(t *testing.T) {
	target, spec := find(t, "forkscrewreverse", workload.LeakToDisk)
	assert.Equal(t, []explore.Param{{Key: "size", Value: "4096"}}, target.Params, "one page instead of two")
	assert.Equal(t, string(workload.LeakToDisk), target.Run(spec.Strategy(), nil).Verdict)
}

// Words that say how the machine ended are found in a workload's verdict and in a
// scenario's.
func TestAbrupt(t *testing.T) {
	for _, v := range []string{"bug", "deadlock", ":>deadlock;", "*>P0:r=0x1; bug;", "*>livelock;"} {
		assert.True(t, abrupt(v), v)
	}
	for _, v := range []string{"safe", "lost-read", ":>P0:bug-r=0x1;", "*>P0:A[0]=0x2;", ""} {
		assert.False(t, abrupt(v), v)
	}
}
