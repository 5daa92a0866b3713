package explore

import (
	"context"
	"fmt"
	"slices"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/sched"
)

// ShrinkOptions bound the minimising of a schedule.
type ShrinkOptions struct {
	// Runs is how many runs may be spent; zero means 5,000.
	Runs int
	// Same says which observations count as the same finding; nil means those
	// with the same verdict as the schedule to be minimised. Of a target with Smaller
	// ones it is also asked with the verdict alone.
	Same func(Observation) bool
	// Keep, if not nil, is asked of a target that does less and shows the finding: whether
	// that still means anything.
	Keep func(*Target) bool
}

// Shrunk is a minimised schedule.
type Shrunk struct {
	// Target is what was minimised: the one given, or one that does less.
	Target Target
	// Smaller counts how often the target was replaced by one that does less.
	Smaller int
	// Spec lists the switches that are left; Token names the run.
	Spec  Spec
	Token Token
	// Observation is what the minimised run saw.
	Observation Observation
	// Recording holds its decisions.
	Recording *Recording
	// Before and After compare the schedules, Runs counts what it took.
	Before, After Cost
	Runs          int
	// Complete is set when the minimising was not cut short by its bounds.
	Complete bool
}

// Shrink looks for the easiest schedule that shows the same finding as spec: the
// fewest departures from the default rule, then the fewest turns; and then, if the target
// has Smaller ones, for the least program that shows it without more departures.
//
// It first straightens: in windows of the schedule, long ones before short ones,
// it lets each actor do all it did there in one go, in every order of a few
// actors. What is not part of the race may be reordered like that at will, and what each
// actor does before and after the window stays the same. Then it drops single
// departures. At last it asks whether fewer, well-chosen switches would have done:
// one, then two, and so on as long as there are runs left, trying those that stand
// before steps on objects that more than one actor touches.
//
// The error is not nil if the schedule does not repeat, or ctx ended before it was run once.
func Shrink(ctx context.Context, t Target, spec Spec, o ShrinkOptions) (*Shrunk, error) {
	if o.Runs == 0 {
		o.Runs = 5000
	}
	out, err := shrinkSchedule(ctx, t, spec, o)
	for err == nil && out.Target.Smaller != nil {
		less := shrinkTarget(ctx, out, o)
		if less == nil {
			break
		}
		out = less
	}
	return out, err
}

// shrinkTarget returns the finding in a smaller target, nil if none of them shows it with
// as few departures.
func shrinkTarget(ctx context.Context, s *Shrunk, o ShrinkOptions) *Shrunk {
	if o.Same == nil {
		verdict := s.Observation.Verdict
		o.Same = func(n Observation) bool { return n.Verdict == verdict }
	}
	marks := Marks(s.Target, s.Spec, CaptureOptions{})
	for _, t := range s.Target.Smaller() {
		if ctx.Err() != nil || s.Runs >= 2*o.Runs {
			return nil
		}
		// The same switches, where the same things happen; else a small search.
		f := Follow(t, marks, nil)
		s.Runs++
		spec := f.Spec
		if !o.Same(f.Observation) {
			rep, err := Search(ctx, t, Options{Schedules: smallerSchedules, Workers: 1, StopAtFirst: true,
				Bad: func(v string) bool { return o.Same(Observation{Verdict: v}) }})
			if err != nil {
				return nil
			}
			s.Runs += int(rep.Schedules)
			i := slices.IndexFunc(rep.Witnesses, func(w Witness) bool { return o.Same(w.Observation) })
			if i < 0 {
				continue
			}
			spec = rep.Witnesses[i].Spec
		}
		if o.Keep != nil && !o.Keep(&t) {
			continue
		}
		least, err := shrinkSchedule(ctx, t, spec, ShrinkOptions{Runs: max(o.Runs/4, 1), Same: o.Same})
		if err != nil || least.After.Departures > s.After.Departures {
			continue
		}
		least.Before, least.Smaller = s.Before, s.Smaller+1
		least.Runs += s.Runs
		least.Complete = least.Complete && s.Complete
		return least
	}
	return nil
}

// smallerSchedules bounds the search in a smaller target for a finding that its switches
// no longer show.
const smallerSchedules = 40

// shrinkSchedule minimises the schedule of a target.
func shrinkSchedule(ctx context.Context, t Target, spec Spec, o ShrinkOptions) (*Shrunk, error) {
	s := &shrinker{ctx: ctx, target: &t, left: o.Runs, same: o.Same}
	obs, rec := s.run(spec.Strategy(), nil)
	if rec == nil {
		return nil, ctx.Err()
	}
	if s.same == nil {
		s.same = func(n Observation) bool { return n.Verdict == obs.Verdict }
	}
	if !s.same(obs) {
		return nil, fmt.Errorf("explore: nothing to minimise: the schedule's verdict is %q", obs.Verdict)
	}
	s.obs, s.best, s.cost = obs, rec, rec.Cost()
	out := &Shrunk{Target: t, Before: s.cost}
	s.try(&script{})
	for {
		before := s.cost
		s.straighten()
		s.drop()
		if s.cost == before {
			break
		}
	}
	for n := 1; n < s.cost.Departures && !s.spent(); n++ {
		s.sweep(nil, n)
	}
	out.Complete = !s.spent()
	out.Spec = Spec{Kind: KindSwitches, Switches: s.best.Switches()}
	out.Token = t.Token(out.Spec)
	out.Runs, out.After = s.runs, s.cost
	out.Recording = s.best
	final := t.once(out.Spec.Strategy(), nil)
	if final.State != s.obs.State || !s.same(final) {
		return nil, fmt.Errorf("explore: %s does not repeat: verdict %q, then %q", out.Token, s.obs.Verdict, final.Verdict)
	}
	out.Observation = final
	return out, nil
}

type shrinker struct {
	ctx    context.Context
	target *Target
	same   func(Observation) bool
	left   int
	runs   int

	best *Recording
	cost Cost
	obs  Observation
}

func (s *shrinker) spent() bool { return s.left <= 0 || s.ctx.Err() != nil }

// run runs a strategy once and records it; nil if there are no runs left.
func (s *shrinker) run(st sched.Strategy, each func(*sched.Choice, int)) (Observation, *Recording) {
	if s.spent() {
		return Observation{}, nil
	}
	s.left--
	s.runs++
	r := NewRecorder(&fair{inner: st})
	if _, ok := st.(*fair); ok {
		r = NewRecorder(st)
	}
	r.each = each
	return s.target.once(r, nil), &r.rec
}

// try runs a candidate and keeps it if it is better.
func (s *shrinker) try(st sched.Strategy) bool {
	obs, rec := s.run(st, nil)
	return rec != nil && s.keep(obs, rec)
}

func (s *shrinker) keep(obs Observation, rec *Recording) bool {
	if c := rec.Cost(); c.Less(s.cost) && s.same(obs) {
		s.best, s.cost, s.obs = rec, c, obs
		return true
	}
	return false
}

// turn is a stretch of a schedule: an actor goes on until it has made so many
// decisions since the beginning of the run.
type turn struct {
	who   ActorID
	until int
}

// turns cuts a recording where the actor changes.
func turns(r *Recording) []turn {
	made := map[ActorID]int{}
	var t []turn
	for i := range r.Decisions {
		a := r.Decisions[i].Actor
		made[a]++
		if n := len(t); n > 0 && t[n-1].who == a {
			t[n-1].until = made[a]
		} else {
			t = append(t, turn{a, made[a]})
		}
	}
	return t
}

// stretches follows a list of turns. An actor that cannot go on loses its turn;
// what it did not do is done at its next one, whose bound counts from the beginning.
type stretches struct {
	turns []turn
	made  map[ActorID]int
	next  int
}

// Begin implements sched.Strategy.
func (s *stretches) Begin(int) { s.made, s.next = map[ActorID]int{}, 0 }

// Pick implements sched.Strategy.
func (s *stretches) Pick(ch *sched.Choice) int {
	for ; s.next < len(s.turns); s.next++ {
		t := &s.turns[s.next]
		if s.made[t.who] >= t.until {
			continue
		}
		if i := find(ch, t.who); i >= 0 {
			s.made[t.who]++
			return i
		}
	}
	i := Default(ch)
	s.made[actorOf(&ch.Enabled[i])]++
	return i
}

// straighten lets each actor do all it does in a window in one go.
func (s *shrinker) straighten() {
	t := turns(s.best)
	for w := len(t); w >= 2 && !s.spent(); w = smaller(w) {
		for i := 0; i+w <= len(t) && !s.spent(); {
			improved := false
			for _, order := range orders(t[i : i+w]) {
				c := slices.Clone(t[:i])
				c = append(c, order...)
				c = append(c, t[i+w:]...)
				if s.try(&stretches{turns: c}) {
					improved = true
					break
				}
			}
			if improved {
				t = turns(s.best)
			} else {
				i += max(w/2, 1)
			}
		}
		w = min(w, len(t)+1)
	}
}

// smaller is the sequence of window lengths: halving, then each of the small ones.
func smaller(w int) int {
	if w > 8 {
		return max(w/2, 8)
	}
	return w - 1
}

// orders returns the ways to straighten a window: each permutation of up to three
// actors, of more the orders of their first and of their last turns.
func orders(window []turn) [][]turn {
	last := map[ActorID]int{}
	var first, final []ActorID
	for _, t := range window {
		if _, ok := last[t.who]; !ok {
			first = append(first, t.who)
		}
		last[t.who] = t.until
		if i := slices.Index(final, t.who); i >= 0 {
			final = slices.Delete(final, i, i+1)
		}
		final = append(final, t.who)
	}
	var perms [][]ActorID
	switch len(first) {
	case 1:
		return nil
	case 2:
		perms = [][]ActorID{{first[0], first[1]}, {first[1], first[0]}}
	case 3:
		a, b, c := first[0], first[1], first[2]
		perms = [][]ActorID{{a, b, c}, {b, a, c}, {a, c, b}, {b, c, a}, {c, a, b}, {c, b, a}}
	default:
		perms = [][]ActorID{first, final}
	}
	out := make([][]turn, len(perms))
	for i, p := range perms {
		for _, a := range p {
			out[i] = append(out[i], turn{a, last[a]})
		}
	}
	return out
}

// drop leaves out departures, many at once before single ones (delta debugging).
func (s *shrinker) drop() {
	sw := s.best.Switches()
	for n := (len(sw) + 1) / 2; n >= 1 && !s.spent(); n /= 2 {
		for i := 0; i < len(sw) && !s.spent(); {
			c := slices.Clone(sw[:i])
			c = append(c, sw[min(i+n, len(sw)):]...)
			if s.try(&script{switches: c}) {
				sw = s.best.Switches()
			} else {
				i += n
			}
		}
	}
}

// sweep tries to show the finding with n departures beyond those of prefix. A
// departure is only worth trying before a step on an object that another actor
// touches too: between two such steps its place makes no difference.
func (s *shrinker) sweep(prefix []Switch, n int) bool {
	var from uint64
	if len(prefix) > 0 {
		from = prefix[len(prefix)-1].At + 1
	}
	shared := sharedObjects(s.best)
	var next []Switch
	var at uint64
	obs, rec := s.run(&script{switches: prefix}, func(ch *sched.Choice, i int) {
		if at >= from && (at == 0 || shared[ch.Enabled[i].Obj]) {
			for k := range ch.Enabled {
				if k != i {
					next = append(next, Switch{at, actorOf(&ch.Enabled[k])})
				}
			}
		}
		at++
	})
	if rec == nil {
		return false
	}
	if s.keep(obs, rec) {
		return true
	}
	if n == 0 {
		return false
	}
	for _, sw := range next {
		if s.spent() {
			return false
		}
		if s.sweep(append(slices.Clone(prefix), sw), n-1) {
			return true
		}
	}
	return false
}

// sharedObjects returns the objects that more than one actor touches, one of them
// by writing.
func sharedObjects(r *Recording) map[x86.ObjID]bool {
	type use struct {
		by    ActorID
		many  bool
		wrote bool
	}
	uses := map[x86.ObjID]use{}
	for i := range r.Decisions {
		d := &r.Decisions[i]
		if d.Obj == 0 {
			continue
		}
		u, ok := uses[d.Obj]
		u.many = u.many || ok && u.by != d.Actor
		u.wrote = u.wrote || d.Op.Writes()
		u.by = d.Actor
		uses[d.Obj] = u
	}
	shared := map[x86.ObjID]bool{}
	for o, u := range uses {
		if u.many && u.wrote {
			shared[o] = true
		}
	}
	return shared
}
