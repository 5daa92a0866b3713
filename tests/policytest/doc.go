// Package policytest tests whether something is a policy: that it keeps what package mm says
// of its hooks, and what it says of itself.
//
//	func TestMine(t *testing.T) { policytest.Run(t, mine{}) }
//
// examples/pincount does so, and every policy of mm/policy goes through it in a short form.
// The checks, each a subtest:
//
//	identity     the name fits into tokens; Hooks lists every method that is overridden
//	races        the small forms of all workloads under many schedules: what Claims promises
//	             holds, and nothing else breaks: no assertion, leak, deadlock, livelock, and
//	             each hook returns with the locks, interrupts and answers of its contract
//	invariants   every invariant of the memory manager at every step
//	repeat       the same schedule ends in the same state, in the free and timed regimes
//	force_hooks  sending every decision through the methods (kernel.Options.ForceHooks) changes
//	             nothing: methods that are not asked for do as Stock
//	alone        two machines under the same policy value, step by step in turn, end as each
//	             does alone: there is no state outside the machine
//	no_memory    where the policy allocates and Stock does not, the allocation fails: nothing
//	             leaks and nothing breaks
//
// A failure that a schedule shows is told as one: with the command that repeats it, and the
// interleaving drawn, minimised. The command is that of the test, which knows the policy and
// watches it:
//
//	COWLAB_SCHEDULE=cl1.forkscrew.mine.s… go test -run '^TestMine$/^races$' .
//
// A command that was built with the policy (cli.Main) takes the tokens of races too: its verb replay
// has -html and the rest.
//
// What a policy is known to break can be listed ([Options].Known), with the reason; what is
// listed and does not show fails the test too.
package policytest
