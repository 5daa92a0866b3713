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
//	o  POS        every pending step has a random priority, and draws a new one when a
//	              step that it conflicts with is taken (pos.go)
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
// # Searches that prove something
//
// [Exhaust] runs every schedule with at most so many preemptions. With Cut it leaves out
// what follows a decision to which another schedule has come by the same steps in
// the same partial order: happens-before keys, not a hash of the machine's state. The state
// of a task is its Go stack, which cannot be hashed, and a hash of the rest would take two states for
// one that go on differently; how a state came about can be hashed, and the same steps in the
// same order lead to the same one. What that costs: states that are the same by chance, along
// different ways, are both searched. The hash is of actors and counts of their steps
// ([StateHash] names final states only). That is for depth-first search alone: a search that relies on races it
// has seen in what follows must see what follows.
//
// [Reduce] runs one schedule of each equivalence class, where two schedules are
// equivalent if one is the other with neighbouring independent steps swapped. It is
// source-set partial-order reduction with sleep sets (dpor.go). What it stands on:
//
//   - The footprint of a step: the operation of its point, and what kernel code says
//     it touches besides with x86.CPU.Touch. depend.go has the table of what commutes.
//     State that is shared, read or written without a point, and not touched makes the
//     reduction wrong. [CheckIndependence] looks for such state: it swaps steps of random
//     schedules that have disjoint footprints and compares how the runs end. It is run on
//     every workload by tests/matrix; whoever adds shared state runs it longer there.
//   - Interrupts. Raising a vector adds to the CPU's interrupt word, each step with
//     interrupts enabled reads it, taking a vector writes it. So every place where an
//     interrupt can be taken is a class of its own, and a section with
//     interrupts disabled is one place.
//   - Events. A request, or a timer, is one actor from its first event to its last.
//     Its name is made of who began it, so it is the same in equivalent schedules.
//   - Enabling. A CPU that waits has read what it waits for. Nobody disables anybody, with two exceptions.
//     A CPU that is about to take a spinlock that is held is left alone until it is free
//     (sched.Actor.Held), because to try and to wait is the same for everybody else; in
//     turn the acquisitions of a lock race, not its release with the next acquisition. So is
//     a CPU that is at a barrier with stores in its buffer.
//   - Store buffers. A buffer is an actor, whose step takes a store out. It commutes with what
//     its own CPU does, which sees its stores wherever they are (dpor_buffer.go).
//   - Failures. That an allocation fails is an event that may happen at any time
//     (sched.Machine.Offer): it writes the injector, which each allocation reads. It happens
//     in each run, at the latest when nobody can do anything else, so that there are races
//     to find.
//   - Reclaim. Each page that was on a list when the race began is an event on offer, of which so
//     many do something (mm.System.OfferReclaim). One that does writes down the page and interrupts
//     a CPU that nobody else uses, where a task does what reclaim does: steps like all others. When as many have done something
//     the rest stay on offer and do nothing, because nobody may disable anybody. Reclaim is
//     not in the middle of a page when a gate closes (AwaitReclaim).
//   - Rest. What is done after the machine has been at rest, by another call of Machine.Run, comes
//     after all that was done before (sched.Choice.Run); to give it something to do is no step.
//   - The end. A run that stops before everybody is through (an oops, a gate that is
//     closed) is taken to have kept the others from acting: they are tried at the
//     last decision. Where an observer stops the machine for what the step before has left
//     behind, the last step is whoever came next: one of each actor, which then comes
//     before the other. How far the others had come when a run was stopped is not part of the classes.
//   - Clocks. A wake-up preempts a task that has had its CPU for a millisecond. The relation
//     knows nothing of that, so such runs are counted (Reduced.Clocked), and a
//     search that has some proves nothing.
//   - Where the search ends. A [Gate] that is closed when the verdict is known keeps the
//     orders in which a program can be torn down from being multiplied with the rest.
//
// Exploration is stateless: a schedule is a prefix of choices, run from the start. The search
// takes up to 64 decisions from its stack at once, the latest first, and hands them to
// workers; what they find is entered in order. So the report is the same for any number of
// workers, and memory is bounded by the depth of the program, not by the number of schedules.
//
// There is no preemption bound for [Reduce]: a bounded search is [Exhaust].
//
// Tests compare the final states of [Reduce] with those of depth-first search without
// reduction: for programs of words with locks, store buffers and failures in this package,
// and for every scenario that is small enough, with the factor (go test ./tests/scenarios
// -run Reduce -v). A scenario that holds disks is not: what its director keeps from the
// strategy the relation does not know.
//
// # What is compared
//
// A final state is a [StateHash]: values under names that mean the same in every schedule.
// Numbers of frames depend on who allocated first, so a state says which pages are the same
// ([Canon]), never which they are. What a depth-first search with Cut compares, and classes
// are told apart by, are actors (CPUs, and events by who added them) and the order of their
// steps: no number of a frame and no host address. Footprints have numbers of frames. Within
// a run, and between runs that have come to the same decision, those mean the same.
//
// # Machines
//
// Every schedule boots a machine of its own, from pooled parts: memory is cleaned by what was touched
// (x86.Memory), coroutines and processors come from sched.Host.
//
// A machine that an undo log sets back to the moment before its first task would save part
// of boot and shutdown. These are 16 of the 186 microseconds of processor time that a
// schedule of forkscrew's small form took where it was measured, 9 %; with a program that
// does nothing, its process and the idle tasks included, they are 23:
//
//	GOGC=400 GOMAXPROCS=1 go test ./tests/matrix -run '^$' -bench 'Schedule|Nothing|Boot' -benchtime 15000x
//
// That is not worth a second way to come to the same state, so there is no undo log: pooled parts
// are in its place. To go back to a moment behind the
// set-up would save more, if it could be done: what a program's threads have done by then is
// on their Go stacks, which cannot be set back.
//
// What two CPUs allocate and free for themselves must not be in the way: each has a zone and a
// list of free pages of its own in the free regime. With one zone for both, the order in which they
// take its lock would be told apart: two tasks that allocate and free a page twice have 70 classes
// then, and one as it is (go test ./mm/page -run Commute -v).
//
// # Rates and memory
//
// On an idle machine with two cores, schedules of forkscrew's small form under pg_gup, which have
// 1,077 points in the median, came at 5,816, 5,900, 6,219 and 6,008 a second with one worker, and at 9,955,
// 10,789, 11,762 and 11,305 with two: 1.85 times as many, the median of the pairs (cowlab explore
// forkscrew -policy pg_gup -workers N; cowlab speed -only schedules,schedules-2 does the like
// under stock).
//
// Memory does not grow with the number of schedules beyond the [MaxStates] final states that a
// search tells apart. In a million schedules of it the command had between 27 and 34 MB
// resident throughout, 28.1 after 15 seconds and 28.6 at the end, with a peak of 42.6; it told
// apart 65,536 final states, which is the limit.
package explore
