// Package explore finds the interleaving in which a program goes wrong, repeats
// it exactly, makes it short, and draws it.
//
// # The idea
//
// In the Free regime a machine is a deterministic function of the choices its
// [sched.Strategy] makes: at every schedule point, which of the enabled actors
// (CPUs, and device events that are pending) takes the next step. A race is then
// not a matter of luck but of a list of choices, and everything in this package
// is something done with such a list:
//
//	                 Spec (kind, parameters, seed)       one line: Token
//	                   |
//	    Search         v            Capture
//	many schedules -> Strategy -> machine runs -> Story -> diagram, JSON
//	of one Target      |  ^          |
//	                   |  |          v
//	                   |  +----- Recording ----> Replayer: same choices, checked
//	                   |             |
//	                   |             v  Shrink
//	                   +--------- []Switch: the few places where the schedule
//	                              departs from the default rule
//
// # Targets
//
// A [Target] is a program that boots a machine, runs it once under the strategy
// it is given, and says what it saw: a verdict ("safe", "lost-read", ...), and a
// hash of the final state made with [StateHash]. The package knows nothing of
// what the program does; it sees operations and objects at schedule points.
// A target whose set-up is not part of what is searched wraps the strategy in
// a [Gate] and opens it when the race begins.
//
// # Showing
//
// [Capture] keeps every step of a run and, if it is told how to look, the state between
// any two: a [Story]. The state is plain text in tables ([Panel]), which whoever knows the
// machine fills in through a [Sink]; a story holds what each step changed. From it are made
// the diagram for mail ([Story.Diagram]), one HTML page with a slider ([Story.HTML]), JSON
// ([Story.JSON]) and a stepper for terminals ([Stepper]). Searches capture nothing.
//
// [Why] compares two stories: a schedule that goes wrong in one program, and the same
// switches in one that is safe.
//
// # Strategies
//
//	r  random     every enabled actor is equally likely at every point
//	p  PCT        random priorities, and depth-1 random points at which the running
//	              actor drops below the others; finds a bug that needs d ordering
//	              constraints with a probability that can be stated
//	s  switches   the default rule, except at the listed places
//
// The default rule ([Default]) is: the CPU that made the last step goes on; if it
// cannot, the lowest CPU that can; if none can, the oldest pending event. A
// schedule as people tell it ("fork runs up to here, then gup, then fork again")
// is a list of two or three departures from it.
//
// PCT and switches are not fair: a CPU that retries something over and over
// while it waits for another would keep the machine for ever. So both are bound
// by [FairBound], after which the others get a turn.
//
// # What repeats, and what does not
//
// Schedule i of a search is a function of (seed, i), and for PCT also of the
// program's length, which is learned from the first [Probes] schedules, before
// any that depends on it. So a search gives the same report on one worker and on
// sixty, and the first witness of a verdict is the one with the least i. A token
// names strategy, parameters and seed, so it repeats as long as the program
// passes the same schedule points. A [Recording] knows the operation and object
// of each step, and a [Replayer] notices the first step at which the program is no
// longer the one that was recorded. A [SwitchFile] names switches by what happens there
// instead of by their places, and [Follow] finds them again in a program that has changed.
// Only rates depend on the host's clock, which
// the caller passes in.
//
// # Growing
//
// Searches that prove something (depth-first with a preemption bound, partial-order
// reduction) need nothing more of the machine: they are strategies that read
// [sched.Choice], where each enabled actor's next operation and object stand.
package explore
