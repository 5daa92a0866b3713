package sched

// rng is a splitmix64 generator: small, fast, and the same everywhere, so that a
// seed in a token means the same schedule on every platform.
type rng uint64

func (r *rng) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// below returns a number in [0, n).
func (r *rng) below(n int) int { return int(r.next() % uint64(n)) }

// Random chooses uniformly among the enabled actors at every point.
type Random struct{ r rng }

// NewRandom returns a random strategy with the given seed.
func NewRandom(seed uint64) *Random { return &Random{rng(seed)} }

// Begin implements Strategy.
func (s *Random) Begin(int) {}

// Pick implements Strategy.
func (s *Random) Pick(ch *Choice) int {
	if len(ch.Enabled) == 1 {
		return 0
	}
	for {
		i := s.r.below(len(ch.Enabled))
		if n := ch.Enabled[i].Rare; n == 0 || s.r.below(n) == 0 {
			return i
		}
	}
}

// MishapOdds is how much rarer than any other step random strategies let something happen
// that need not happen at all: as likely as others it would nearly always come at once.
const MishapOdds = 64

// PCT is probabilistic concurrency testing (Burckhardt, Kothari, Musuvathi and
// Nagarakatte, ASPLOS 2010): every actor has a random priority, the highest
// enabled one runs, and at depth-1 random steps the running actor drops below
// all others. A bug that needs d ordering constraints is found with probability
// at least 1/(n*k^(d-1)) for n actors and k steps.
type PCT struct {
	r       rng
	prio    map[uint64]uint64 // actor -> priority
	changes []uint64          // steps at which the running actor is demoted, ascending
	low     uint64            // next priority below all others
}

// NewPCT returns a PCT strategy: depth is at least 1, steps the expected length
// of the run in points.
func NewPCT(seed uint64, depth int, steps uint64) *PCT {
	s := &PCT{r: rng(seed), prio: make(map[uint64]uint64), low: uint64(depth)}
	for range depth - 1 {
		s.changes = append(s.changes, s.r.next()%max(steps, 1))
	}
	for i := range s.changes { // insertion sort: a handful of numbers
		for j := i; j > 0 && s.changes[j] < s.changes[j-1]; j-- {
			s.changes[j], s.changes[j-1] = s.changes[j-1], s.changes[j]
		}
	}
	return s
}

// Begin implements Strategy.
func (s *PCT) Begin(int) {}

func actorKey(a *Actor) uint64 {
	if a.CPU >= 0 {
		return uint64(a.CPU)
	}
	return 1<<32 + a.Seq
}

func (s *PCT) priority(a *Actor) uint64 {
	k := actorKey(a)
	p, ok := s.prio[k]
	if !ok {
		p = s.r.next()>>1 | 1<<32
		s.prio[k] = p
	}
	return p
}

// Pick implements Strategy.
func (s *PCT) Pick(ch *Choice) int {
	for len(s.changes) > 0 && ch.Step >= s.changes[0] {
		s.changes = s.changes[1:]
		if s.low > 0 {
			s.low--
		}
		if ch.Last >= 0 {
			s.prio[uint64(ch.Last)] = s.low
		}
	}
	best, bestPrio := 0, uint64(0)
	for i := range ch.Enabled {
		if p := s.priority(&ch.Enabled[i]); i == 0 || p > bestPrio {
			best, bestPrio = i, p
		}
	}
	return best
}
