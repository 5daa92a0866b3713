package policytest

import (
	"fmt"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
	"github.com/cowlab/cowlab/mm/policy"
	"github.com/cowlab/cowlab/tests/vmtest"
	"github.com/cowlab/cowlab/tests/workload"
)

// base is what the policies here have in common: each is wrong in one way.
type base struct{ mm.Stock }

func (base) Name() string { return "wrong" }

type badName struct{ mm.Stock }

func (badName) Name() string { return "Bad name" }

// deaf overrides a method that its Hooks does not list.
type deaf struct{ base }

func (deaf) WPDone(*mm.Fault) {}

// deafFence is one whose method shows when hooks are forced.
type deafFence struct{ base }

func (deafFence) AnonNew(t *sched.Task, _ *page.Page, _ *mm.VMA) { t.C.Fence() }

// boaster is Stock and promises what Stock does not.
type boaster struct{ base }

func (boaster) Claims() mm.Guarantee { return mm.Forward | mm.AIO }

// unlocker lets the child's ptl go in ForkPTE.
type unlocker struct{ base }

func (unlocker) Hooks() mm.HookSet { return mm.HookForkPTE }
func (unlocker) ForkPTE(f *mm.Fork) mm.ForkNext {
	next := f.CopyOnePTE()
	f.Unlock()
	return next
}

// keeper returns from ForkBreak with the ptls held.
type keeper struct{ base }

func (keeper) Hooks() mm.HookSet { return mm.HookForkPTE }
func (keeper) ForkPTE(f *mm.Fork) mm.ForkNext {
	f.Page = f.Src.Sys.NormalPage(f.SrcVMA, f.PTE)
	if p := f.Page; p == nil || !p.Anon() || !f.SrcVMA.Flags.IsCOW() {
		return f.CopyOnePTE()
	}
	return mm.ForkStop
}
func (keeper) ForkBreak(f *mm.Fork) mm.ForkNext { return f.CopyToChild("keeper") }

// oracle gives an answer that there is not.
type oracle struct{ base }

func (oracle) Hooks() mm.HookSet        { return mm.HookWP }
func (oracle) WP(f *mm.Fault) mm.WPNext { _ = f.LockAndReuse(); return 77 }

// interrupter enables interrupts in gup-fast.
type interrupter struct{ base }

func (interrupter) Hooks() mm.HookSet { return mm.HookFast }
func (interrupter) FastBegin(f *mm.Fast) bool {
	f.T.C.IRQEnable()
	return true
}

// taker takes a flag of the look-up away.
type taker struct{ base }

func (taker) Hooks() mm.HookSet { return mm.HookGUPVMA }
func (taker) GUPVMA(g *mm.GUP) mm.GUPNext {
	g.Foll &^= mm.FollGet | mm.FollWrite
	return mm.GUPGo
}

// juggler takes a mapping of a page and drops it again, a step later.
type juggler struct{ base }

func (juggler) Hooks() mm.HookSet { return mm.HookTaken }
func (juggler) Taken(g *mm.GUP, p *page.Page) {
	sys := g.MM.Sys
	sys.Pages.GetAs(g.T, p, page.RefMap)
	sys.PageDupRmap(g.T, p, g.VMA, g.Addr)
	g.T.C.Fence()
	sys.PageRemoveRmap(g.T, p)
	sys.Pages.PutAs(g.T, p, page.RefMap)
}

// learner has state of its own: the first fast pin of its life goes the slow way.
type learner struct {
	base
	n *int
}

func (learner) Hooks() mm.HookSet { return mm.HookFast }
func (f learner) FastBegin(*mm.Fast) bool {
	*f.n++
	return *f.n > 1
}

// absent keeps state outside the machine too, but begins afresh with each machine: alone it
// repeats, and beside another machine it mixes them up.
type absent struct {
	base
	n   *int
	sys **mm.System
}

func (absent) Hooks() mm.HookSet { return mm.HookFast | mm.HookForkRange }
func (a absent) look(s *mm.System) int {
	if *a.sys != s {
		*a.sys, *a.n = s, 0
	}
	*a.n++
	return *a.n
}
func (a absent) FastBegin(f *mm.Fast) bool { return a.look(f.MM.Sys)%2 == 0 }
func (a absent) ForkBegin(f *mm.Fork)      { a.look(f.Src.Sys) }

// problems runs one check on a policy with a workload.
func problems(t *testing.T, p mm.Policy, name string, works ...string) []Problem {
	t.Helper()
	s := newSuite(t.Context(), p, options(works...))
	s.hosts = kernel.NewHosts()
	defer s.hosts.Close()
	for _, c := range checks() {
		if c.name == name {
			return c.run(s)
		}
	}
	require.Fail(t, "no check "+name)
	return nil
}

// TestChecksFind: each check finds what it is for, and Stock passes.
func TestChecksFind(t *testing.T) {
	n, m, sys := 0, 0, (*mm.System)(nil)
	for _, c := range []struct {
		p                 mm.Policy
		check, work, says string
	}{
		{badName{}, "identity", "forkscrew", "no name for tables"},
		{deaf{}, "identity", "forkscrew", "never called"},
		{boaster{}, "races", "forkscrew", "lost-read"},
		{unlocker{}, "races", "forkscrew", "contract of ForkPTE: 2 locks held on return"},
		{keeper{}, "races", "forkscrew", "contract of ForkBreak"},
		{oracle{}, "races", "forkscrew", "contract of WP: answered 77"},
		{interrupter{}, "races", "forkscrew", "contract of FastBegin: interrupts were off: true, on return: false"},
		{taker{}, "races", "late_dma", "contract of GUPVMA: took flags"},
		{juggler{}, "invariants", "late_dma", "invariant"},
		{learner{n: &n}, "repeat", "dma_thread", "the same schedule twice"},
		{deafFence{}, "force_hooks", "forkscrew", "with ForceHooks"},
		{absent{n: &m, sys: &sys}, "alone", "dma_thread", "beside another machine"},
		{policy.PGGUP{}, "no_memory", "dma_thread", "when no page can be had"},
	} {
		assert.Empty(t, problems(t, policy.Stock{}, c.check, c.work), "%s on stock", c.check)
		got := problems(t, c.p, c.check, c.work)
		if assert.NotEmpty(t, got, "%T: %s found nothing", c.p, c.check) {
			assert.Contains(t, got[0].Says, c.says, "%T", c.p)
		}
	}
	assert.Empty(t, problems(t, absent{n: &m, sys: &sys}, "repeat", "dma_thread"), "it does repeat alone")
}

// told are policies that no command knows, each with a check that finds something in a schedule.
var told = []struct {
	p                 mm.Policy
	check, work, says string
}{
	{boaster{}, "races", "forkscrew", "lost-read"},
	{unlocker{}, "races", "forkscrew", "contract of ForkPTE"},
	{juggler{}, "invariants", "late_dma", "invariant, after an operation on _mapcount of page 5: "},
	{unknown{policy.PGGUP{}}, "no_memory", "dma_thread", "bug"},
}

// unknown is a policy under another name.
type unknown struct{ mm.Policy }

func (unknown) Name() string { return "wrong" }

// options are those of problems.
func options(works ...string) (o Options) {
	o.Schedules = 12
	for _, w := range works {
		o.Workloads = append(o.Workloads, workload.Lookup(w))
	}
	return o
}

// TestTold is a test of policies as users have it, for TestFailuresAreTold to run.
func TestTold(t *testing.T) {
	if tok, err := vmtest.Asked(); tok == nil && err == nil {
		t.Skip("its policies are wrong")
	}
	for i, c := range told {
		t.Run(strconv.Itoa(i), func(t *testing.T) { RunWith(t, c.p, options(c.work)) })
	}
}

// TestFailuresAreTold: a failure that a schedule shows is drawn, and comes with the command that repeats it, of
// a policy that no command knows.
func TestFailuresAreTold(t *testing.T) {
	least := problems(t, boaster{}, "races", "forkscrew")[0].schedule
	s := newSuite(t.Context(), boaster{}, options("forkscrew"))
	s.hosts = kernel.NewHosts()
	defer s.hosts.Close()
	text := s.explain(t.Name(), *least)
	assert.Contains(t, text, "cl1.forkscrew~len~512.wrong.s", "a program that does less: the token names that")
	assert.Contains(t, text, "CPU 0")
	assert.Contains(t, text, "=> lost-read")
	command := regexp.MustCompile(`run it alone with\n  COWLAB_SCHEDULE=(cl1\S+) go test -run '(\S+)' \.\n`)
	for i, c := range told {
		got := problems(t, c.p, c.check, c.work)
		require.NotEmpty(t, got, "%T", c.p)
		s.p, s.o = c.p, options(c.work)
		text := s.explain(fmt.Sprintf("TestTold/%d/%s", i, c.check), *got[0].schedule)
		assert.Less(t, strings.Count(text, "\n"), 120)
		m := command.FindStringSubmatch(text)
		require.NotNil(t, m, "%s", text)
		cmd := exec.Command(os.Args[0], "-test.run", m[2], "-test.v")
		cmd.Env = append(os.Environ(), explore.ScheduleVar+"="+m[1])
		out, err := cmd.CombinedOutput()
		assert.Error(t, err, "%T: nothing goes wrong in it", c.p)
		assert.Regexp(t, `policytest\.go:\d+: .*`+c.says, string(out))
		assert.NotContains(t, string(out), "run it alone", "the check is not made again")
		for _, line := range strings.Split(strings.TrimPrefix(text, m[0]), "\n") {
			assert.Contains(t, string(out), strings.TrimRight(line, " "), "the drawing")
		}
	}
	c, err := s.of("invariants", &explore.Token{Target: "dma_thread"})
	require.NoError(t, err)
	var o workload.Options
	require.NotNil(t, c.tune)
	c.tune(&o)
	assert.EqualValues(t, 1, o.CheckEvery)
	_, err = s.of("races", &explore.Token{Target: "dma_thread", Params: []explore.Param{{Key: "a", Value: "x"}}})
	assert.ErrorContains(t, err, "token: ")
}

// TestWatchedIsTheSameMachine: the watch makes no steps.
func TestWatchedIsTheSameMachine(t *testing.T) {
	s := newSuite(t.Context(), policy.Stock{}, Options{Workloads: []*workload.Workload{workload.Lookup("ptrace_peek"), workload.Lookup("forkscrew"), workload.Lookup("vmsplice")}})
	s.hosts = kernel.NewHosts()
	defer s.hosts.Close()
	for _, p := range policy.All() {
		for _, c := range s.cells(false) {
			spec := s.specs()[0]
			a, _, err := s.plain(&c, p, spec.Strategy(), nil, nil)
			require.NoError(t, err)
			b, _, err := s.plain(&c, contract{p}, spec.Strategy(), nil, nil)
			require.NoError(t, err)
			assert.Equal(t, a, b, "%s on %v", p.Name(), &c)
		}
	}
}

// TestWatchHidesNothing: no policy has a method that mm.Policy has not. Somebody would have to
// look for it by type assertion, and not find it in a type that embeds an mm.Policy, such as the watch.
func TestWatchHidesNothing(t *testing.T) {
	watch := reflect.TypeFor[contract]()
	for _, p := range policy.All() {
		of := reflect.TypeOf(p)
		for i := range of.NumMethod() {
			_, ok := watch.MethodByName(of.Method(i).Name)
			assert.True(t, ok, "%v.%s is no method of mm.Policy", of, of.Method(i).Name)
		}
	}
}

// TestHookOf: all methods are called for a bit, but for those that are always asked.
func TestHookOf(t *testing.T) {
	var always []string
	of, bits := reflect.TypeFor[mm.Policy](), mm.HookSet(0)
	for i := range of.NumMethod() {
		bit, ok := hookOf[of.Method(i).Name]
		if bits |= bit; !ok {
			always = append(always, of.Method(i).Name)
		}
	}
	assert.Equal(t, []string{"About", "AccessWrite", "CheckPTE", "Claims", "DirectIOPin", "HoldsMmapSem", "Hooks",
		"MlockPopulates", "Name", "Unuse", "VmsplicePin"}, always)
	assert.Equal(t, mm.AllHooks, bits)
}
