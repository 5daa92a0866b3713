package policy_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/workload"
)

// holdsNothing is Stock whose pins take no reference.
type holdsNothing struct{ mm.Stock }

func (holdsNothing) Name() string                                  { return "stock" }
func (holdsNothing) Hooks() mm.HookSet                             { return mm.HookPut }
func (holdsNothing) Take(*sched.Task, *page.Page, mm.PinKind, int) {}
func (holdsNothing) Put(*sched.Task, *page.Page, mm.PinKind, int)  {}

// TestUnmapPinSeesAPinWithoutAReference: no row hands the frame under a pin to somebody else, so it
// takes a broken one to show that unmap_pin would see it: who takes the frame next finds the
// device's bytes in it, or the invariants find it dirty among the free ones.
func TestUnmapPinSeesAPinWithoutAReference(t *testing.T) {
	for params, want := range map[string]workload.Verdict{
		"aio=0": workload.ChildChanged, "aio=1": workload.Bug, "exit=2": workload.Bug, "exit=2,pages=64": workload.ChildChanged,
	} {
		r := explores(t, "unmap_pin", params, holdsNothing{}, explore.Options{Schedules: 200, Seed: 1})
		assert.NotZero(t, r.ByVerdict[string(want)], "%s: %v", params, r.ByVerdict)
		r = search(t, "unmap_pin", params, policy.Lookup("stock"), 50)
		assert.Equal(t, r.Schedules, r.ByVerdict[explore.Safe], "%s: %v", params, r.ByVerdict)
	}
}
