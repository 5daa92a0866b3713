package scenarios

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// stateOf runs a scenario in some schedules under stock and returns the one state that all
// of them end in.
func stateOf(t *testing.T, text string) string {
	t.Helper()
	s, err := Parse("test", "cowlab test\n\"test\"\n"+text)
	require.NoError(t, err)
	o := observe(t, s, mm.Stock{}, Strategy{Schedules: 12, Seed: 1})
	require.Len(t, o.States, 1, "%+v", o.States)
	return o.States[0].State
}

// Each operation does what the table of verbs says.
func TestOperations(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"load and store": {`map A 1 page private
 P0 ;
 A[5:8] = 7 ;
 r = A[5:8] ;
 s = A[4:8] ;
never P0:r = 0 \/ P0:s = 0 \/ P0:A[8] = 1`, "P0:r=0x7; P0:s=mixed; P0:A[8]=0x0;"},
		"disk": {`machine disk=4K
map A 1 page private
init disk[512:1K] = 9
init A = 1
 P0 ;
 n = pread A[0:512] at 512 ;
 A[0] = 2 ;
 m = pwrite A[0:512] at 1K ;
 e = pread A[0:100] at 0 ;
 f = pread A[0:512] at 4K ;
never P0:n = 0 \/ P0:m = 0 \/ P0:e = 0 \/ P0:f = 1 \/ P0:A[1] = 0 \/ disk[1K] = 0 \/ disk[1025:1536] = 0`,
			"P0:n=0x200; P0:m=0x200; P0:e=-EINVAL; P0:f=0x0; P0:A[1]=0x9; disk[1K]=0x2; disk[1025:1536]=0x9;"},
		"aio": {`machine disk=4K
map A 1 page private
init disk = 9
 P0 ;
 a = io_read A[0:512] at 0 ;
 b = io_read A[512:1K] at 0 ;
 c = io_wait 1 ;
 d = io_wait ;
 e = io_wait ;
never P0:a = 0 \/ P0:b = 0 \/ P0:c = 0 \/ P0:d = 0 \/ P0:e = 1 \/ P0:A[0:1K] = 0`,
			"P0:a=0x1; P0:b=0x1; P0:c=0x200; P0:d=0x200; P0:e=0x0; P0:A[0:1K]=0x9;"},
		"aio that nobody waits for": {`machine disk=4K
map A 1 page private
init disk = 9
 P0 ;
 io_read A at 0 ;
never P0:A = 0`, "P0:A=0x9;"},
		"error of the disk": {`machine disk=4K
map A 1 page private
error write disk[0:512]
 P0 ;
 r = pread A[0:512] at 0 ;
 w = pwrite A[0:512] at 0 ;
never P0:r = 0 \/ P0:w = 0`, "P0:r=0x200; P0:w=-EIO;"},
		"pin and device": {`map A 2 pages private
init A[0] = 1
 P0 | D device ;
 pin h A[0:4K] write | ;
 n = refs(h) | ;
 @1 | @1 ;
 @2 | r = dma h[0] ;
 | dma h[1:3] = 5 ;
 | unpin h ;
 | @2 ;
 m = refs(A) | ;
never D:r = 0 \/ P0:n = 0 \/ P0:m = 0 \/ P0:A[1:3] = 0`, "D:r=0x1; P0:n=0x2; P0:m=0x1; P0:A[1:3]=0x5;"},
		"a pin that begins within a page": {`map A 2 pages private
init A = 1
 P0 ;
 pin h A[512:5K] read ;
never ~samepage(P0:A, h) \/ ~samepage(P0:A[4K], h[3584]) \/ samepage(P0:A, h[4K])`,
			"samepage(P0:A, h)=1; samepage(P0:A[4K], h[3584])=1; samepage(P0:A, h[4K])=0;"},
		"pipe": {`map A 1 page private
pipe p
init A = 3
 P0 ;
 n = vmsplice p A[0:8] ;
 r = pipe_read p 8 ;
never P0:n = 0 \/ P0:r = 0`, "P0:n=0x8; P0:r=0x3;"},
		"debugger": {`map A 1 page private ro
init A = 3
 P0 | C child ;
 fork C | ;
 @1 | @1 ;
 r = peek C:A[9] | ;
 poke C:A[9] = 4 | ;
 s = peek C:A[9] | ;
never P0:r = 0 \/ P0:s = 0 \/ P0:A[9] = 0 \/ C:A[8] = 0 \/ C:A[9] = 0`, "P0:r=0x3; P0:s=0x4; P0:A[9]=0x3; C:A[8]=0x3; C:A[9]=0x4;"},
		"protections": {`map A 1 page private
init A = 3
 P0 | C child ;
 fork C | ;
 mprotect A r | ;
 r = writable(A) | ;
 mprotect A none | ;
 A[0] = 1 | ;
never segv(P0) \/ segv(C) \/ P0:r = 1 \/ P0:A[0] = 1`, "segv(P0)=1; segv(C)=0; P0:r=0x0; P0:A[0]=?;"},
		"mmap, munmap, mremap": {`map A 1 page private
init A = 3
 P0 ;
 mremap A ;
 r = A[0] ;
 n = mmap B 2 pages shared ;
 B = 4 ;
 munmap B[0:4K] ;
 p = present(B) ;
 q = present(B[4K]) ;
never P0:r = 0 \/ P0:n = 1 \/ P0:p = 1 \/ P0:q = 0 \/ P0:B[4K] = 0 \/ P0:B[0] = 0`,
			"P0:r=0x3; P0:n=0x0; P0:p=0x0; P0:q=0x1; P0:B[4K]=0x4; P0:B[0]=?;"},
		"swap": {`machine swap=64K
map A 1 page private
init A = 3
 P0 | C child ;
 s = swapout A | ;
 p = present(A) | ;
 fork C | ;
 q = swapped(A) | ;
never P0:s = 0 \/ P0:p = 1 \/ P0:q = 0 \/ ~samepage(P0:A, C:A) \/ ~swapped(C:A) \/ C:A[0] = 0`,
			"P0:s=0x1; P0:p=0x0; P0:q=0x1; samepage(P0:A, C:A)=1; swapped(C:A)=1; C:A[0]=0x3;"},
		"advice": {`map A 1 page private
init A = 3
 P0 | C child ;
 madvise A dontfork | ;
 fork C | ;
 madvise A dontneed | ;
never P0:A[0] = 3 \/ C:A[0] = 3 \/ mapcount(P0:A) = 9`, "P0:A[0]=0x0; C:A[0]=?; mapcount(P0:A)=?;"},
		"fork shares, a store copies": {`map A 1 page private
init A = 3
 P0 | C child ;
 fork C | ;
 a = samepage(A, C:A) | ;
 m = mapcount(A) | ;
 A[0] = 1 | ;
 b = samepage(A, C:A) | ;
never P0:a = 0 \/ P0:b = 1 \/ P0:m = 0 \/ counter(emu_cow_copy) = 0`, "P0:a=0x1; P0:b=0x0; P0:m=0x2; counter(emu_cow_copy)=1;"},
		"vfork": {`map A 1 page private
init A = 3
 P0 | C child ;
 vfork C | A[0] = 5 ;
never P0:A[0] = 3 \/ C:A[0] = 5`, "P0:A[0]=0x5; C:A[0]=?;"},
		"threads of a child": {`map A 1 page private
init A = 3
 P0 | C child | T in C ;
 fork C | set e | await e ;
 | | A[0] = 5 ;
never P0:A[0] = 5 \/ C:A[0] = 3 \/ T:A[0] = 3`, "P0:A[0]=0x3; C:A[0]=0x5; T:A[0]=0x5;"},
		"locked memory": {`machine swap=64K
map A 1 page private
init A = 3
 P0 ;
 mlock A ;
 r = swapout A ;
 munlock A ;
 s = swapout A ;
never P0:r = 1 \/ P0:s = 0`, "P0:r=0x0; P0:s=0x1;"},
		"held disk": {`machine disk=4K
map A 1 page private
init disk = 9
 P0 ;
 hold disk ;
 io_read A[0:512] at 0 ;
 pause 50 ;
 r = A[0] ;
 release disk ;
 io_wait ;
never P0:r = 9 \/ P0:A[0] = 0`, "P0:r=0x0; P0:A[0]=0x9;"},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, c.want, stateOf(t, c.text)) })
	}
}

// A swap entry that two processes have counts them, and the swap cache as long as the page is
// in it; other pages have none.
func TestSwapCount(t *testing.T) {
	s, err := Parse("test", `cowlab test
"swapcount"
machine swap=64K
map A 1 page private
init A = 1
 P0 | C child ;
 r = swapcount(A) | ;
 s = swapout A | ;
 fork C | ;
never P0:r != 0 \/ P0:s != 1 \/ swapcount(P0:A) < 2 \/ swapcount(C:A) > 3
`)
	require.NoError(t, err)
	o := observe(t, s, mm.Stock{}, Strategy{Schedules: 30, Seed: 1})
	assert.Equal(t, "Never", o.Observation, "%+v", o.States)
}

// A call that fails though no register takes the error is an error of the scenario, and
// does not pass for a result.
func TestBroken(t *testing.T) {
	assert.Equal(t, "P0:A[0]=0x0; broken;", stateOf(t, `map A 1 page private
 P0 ;
 unpin h ;
 pin h A read ;
 unpin h ;
never P0:A[0] = 1`))
}

// Who waits for a column that ends early goes on: at meeting points, for events, for
// children that it would have forked.
func TestEarlyEnds(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"at a meeting point": {`map A 1 page private ro
 P0 | C child ;
 fork C | A[0] = 1 ;
 @1 | @1 ;
 r = A[0] | ;
never P0:r = 1 \/ segv(C)`, "P0:r=0x0; segv(C)=1;"},
		"an event": {`map A 1 page private ro
 P0 | C child ;
 fork C | A[0] = 1 ;
 await e | set e ;
 r = A[0] | ;
never P0:r = 1 \/ segv(C)`, "P0:r=0x0; segv(C)=1;"},
		"a fork that does not happen": {`map A 1 page private ro
 P0 | D device | C child | G child ;
 A[0] = 1 | pause 1 | | ;
 fork C | @1 | fork G | @1 ;
never segv(P0) \/ segv(C) \/ G:A[0] = 0`, "segv(P0)=1; segv(C)=0; G:A[0]=?;"},
		"the other threads of the process": {`map A 1 page private ro
 P0 | P1 | D device ;
 A[0] = 1 | pause 500 | ;
 | @1 | @1 ;
never segv(P1) \/ P1:A[0] = 0`, "segv(P1)=0; P1:A[0]=?;"},
		"exit": {`map A 1 page private
 P0 | C child ;
 fork C | exit 3 ;
 r = wait C | ;
 s = wait C | ;
never P0:r = 1 \/ P0:s = 1 \/ refs(C:A) = 1`, "P0:r=0x0; P0:s=-ECHILD; refs(C:A)=?;"},
	} {
		t.Run(name, func(t *testing.T) { assert.Equal(t, c.want, stateOf(t, c.text)) })
	}
}

// A process that ends whenever it comes to it is waited for, and never waited upon: its end
// and the last column's meet in some schedules only.
func TestEndMeetsTheLook(t *testing.T) {
	s, err := Lookup("child-only-exits")
	require.NoError(t, err)
	o := observe(t, s, policy.Lookup("pg_gup"), Strategy{Schedules: 300, Seed: 1})
	assert.Empty(t, o.Also, "%+v", o.States)
}

// The state is looked at when processes that were to end have ended: what they held is gone.
func TestLookWaitsForEnds(t *testing.T) {
	s, err := Parse("test", `cowlab test
"a process exits while a device is busy"
map A 2 pages private
init A = 1
 P0 | D device ;
 pin h A write | ;
 @1 | @1 ;
 exit | pause 20 ;
never refs(h) != 1 \/ refs(h[4K]) != 1
`)
	require.NoError(t, err)
	o := observe(t, s, mm.Stock{}, Strategy{Schedules: 200, Seed: 1})
	assert.Len(t, o.States, 1, "%+v", o.States)
	assert.Equal(t, "Never", o.Observation)
}

// Nothing is searched before the first row and behind the last one: two columns that do
// nothing have few schedules.
func TestSearchIsOfTheColumns(t *testing.T) {
	s, err := Parse("test", "cowlab test\n\"test\"\nmap A 1 page private\ninit A = 1\n P0 | P1 ;\nnever P0:A[0] != 1")
	require.NoError(t, err)
	o := observe(t, s, mm.Stock{}, Strategy{Exhaustive: true, Preemptions: 1})
	assert.Less(t, o.Negative, uint64(60), o.Bound)
}

// What is unknown compares as false, in both directions; bytes that differ are unequal to
// all numbers.
func TestConditions(t *testing.T) {
	s, err := Parse("test", `cowlab test
"test"
map A 1 page private
 P0 ;
 r = A[0] ;
never P0:r = 1 \/ ~(P0:A[0] != 2 /\ leak)
`)
	require.NoError(t, err)
	or := s.Cond.Expr.(*Or)
	r, a := or.X.(*Compare), or.Y.(*Not).X.(*And)
	at := func(rv, av value, verdicts ...string) *state {
		return &state{vals: map[string]value{"P0:r": rv, "P0:A[0]": av}, verdicts: verdicts}
	}
	assert.True(t, at(number(1), value{}).holds(r))
	assert.False(t, at(number(2), value{}).holds(r))
	assert.False(t, at(value{}, value{}).holds(r))
	assert.False(t, at(value{}, value{}, "leak").holds(a), "unknown is not unequal either")
	assert.True(t, at(value{}, value{known: true, mixed: true}, "leak").holds(a))
	assert.False(t, at(value{}, number(2), "leak").holds(a))
	assert.False(t, at(value{}, number(1)).holds(a), "no leak")
	assert.True(t, at(value{}, number(1)).holds(s.Cond.Expr))
	for op, want := range map[string][3]bool{ // for 1, 2 and 3 against 2
		"=": {false, true, false}, "!=": {true, false, true}, "<": {true, false, false},
		"<=": {true, true, false}, ">": {false, false, true}, ">=": {false, true, true},
	} {
		for i, w := range want {
			assert.Equal(t, w, compare(number(int64(i+1)), number(2), op), "%d %s 2", i+1, op)
		}
		assert.Equal(t, op == "!=", compare(value{known: true, mixed: true}, number(2), op))
		assert.False(t, compare(value{}, number(2), op))
	}
}

// A state in which the machine did not come to rest is what it ended with.
func TestAbruptEnds(t *testing.T) {
	assert.Equal(t, "deadlock;", stateOf(t, `pipe p
 P0 ;
 r = pipe_read p 1 ;
never P0:r = 0`))
}

// TestExitOfAThreadThatIsDone pins that a process can exit, and be waited for, although another
// thread of it has come to the end of its column and waits for the others.
func TestExitOfAThreadThatIsDone(t *testing.T) {
	s, err := Parse("threads", `cowlab threads
"a child of two threads exits"
P0     | C child | T in C ;
fork C |         |        ;
       | exit    |        ;
wait C |         |        ;
never deadlock`)
	require.NoError(t, err)
	o := observe(t, s, policy.Lookup("stock"), Strategy{Schedules: 60, Seed: 1})
	assert.Equal(t, "Never", o.Observation, "%v", o.States)
}

// TestFail pins what a failing allocation does: the call returns ENOMEM; a fault kills the process, and
// who would have met it goes on.
func TestFail(t *testing.T) {
	s, err := Parse("fail", `cowlab fail
"the second page that is copied cannot be"
map A 1 page private
map F 1 page private file
init A = 1
fail mm_struct 1
fail do_wp_page 1
P0         | C child  | G child  ;
r = fork C |          |          ;
q = fork G |          |          ;
A[0] = 2   | A[0] = 3 | v = F[0] ;
@1         | @1       | @1       ;
never oom \/ deadlock
show P0:r, P0:q, G:v`)
	require.NoError(t, err)
	o := observe(t, s, policy.Lookup("stock"), Strategy{Schedules: 20, Seed: 1})
	assert.Equal(t, []string{"oom"}, o.Also)
	for _, st := range o.States {
		assert.Contains(t, st.State, "P0:r=-ENOMEM; P0:q=0x0; G:v=0x0;")
	}
}

// TestFailEndsWithTheColumns pins that the last look at memory, which may touch it first, does not
// meet an allocation that was to fail.
func TestFailEndsWithTheColumns(t *testing.T) {
	s, err := Parse("fail", `cowlab fail
"nothing is touched before the end"
map B 1 page private
fail do_anonymous_page 1
P0    ;
drain ;
never oom \/ deadlock
show P0:B[0]`)
	require.NoError(t, err)
	o := observe(t, s, policy.Lookup("stock"), Strategy{Schedules: 5, Seed: 1})
	assert.Equal(t, "Never", o.Observation, "%v", o.States)
}
