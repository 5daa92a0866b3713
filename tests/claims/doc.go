// Package claims settles the disputes of the thread by experiment. A [Claim] is one
// sentence that somebody wrote, in our words, and a program that finds out: it searches
// schedules, counts what an operation costs, or compares such figures. Nothing is
// written down in advance: change the policy's code and the verdict changes, which the
// tests do for each claim.
//
//	confirmed   what was said is what was seen
//	refuted     it is not
//	depends     on what, the result says
//	not found   what is said to be there no schedule showed, of those that were run
//
// A claim that something can happen is refuted only by a search that was exhaustive to the bound it
// states, or by a count; a sample that shows nothing has not found it. A claim that something cannot happen is refuted by
// a schedule in which it does, and confirmed to the bound that the evidence names.
//
// Two kinds of experiment come up again and again, and [Lab] has them:
//
//   - a race ([Lab.Search]): the small form of a workload under a policy, searched with a
//     bounded number of schedules. Where something is found, a token replays it; where
//     nothing is, that holds for the schedules searched. With [Options].Deep what they do not
//     answer is searched in all schedules with few preemptions, up to [Options].Limit: the
//     evidence says how many those are, or that there are more and how many are known to be left.
//     [Lab.First] ends with the first schedule that shows something, where a claim only asks
//     whether there is one.
//   - a program that only one claim asks for ([Lab.Ask], and [Lab.AskAll] for every schedule
//     with few preemptions): a scenario's text or a Go function, listed by [Names]. [Target]
//     and [Policy] find what their tokens name, variants of policies included.
//   - a cost ([Lab.Count], [Lab.Compare]): a program in the timed regime, where counts and
//     virtual time are equal each time. A comparison of times is only worth stating if
//     it stays what it is when each constant of the cost model is varied by half either
//     way; [Lab.Compare] does that.
package claims
