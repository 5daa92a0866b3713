package scenarios

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
)

// Tuning is what a search adds to a scenario's machine, or changes of how it is run. It is
// part of tokens.
type Tuning struct {
	// TSO gives each CPU a store buffer; a scenario with "machine tso" has them anyway.
	TSO bool
	// Fail is how many allocations of memory may fail, at any moment.
	Fail int
	// Reclaim is how many pages may be reclaimed, at any moment.
	Reclaim int
	// Races looks for data races on the kernel's plain fields.
	Races bool
	// Bare is for searches of every schedule: columns wait at the start and at the end as
	// for a spinlock, each on a CPU of its own, so that no sleep and no wake-up is searched,
	// and a run's State is made of nothing but the final state.
	Bare bool
}

// MaxFail is the most that Tuning.Fail can be, MaxReclaim that Tuning.Reclaim can be.
const (
	MaxFail    = 3
	MaxReclaim = kernel.OfferedReclaims
)

// The parameters of tokens, beside sumParam.
const (
	tsoParam     = "tso"
	failParam    = "fail"
	racesParam   = "races"
	bareParam    = "bare"
	reclaimParam = "reclaim"
	lessParam    = "less" // see smaller.go
)

// Validate reports what is wrong with a tuning.
func (t Tuning) Validate() error {
	if t.Fail < 0 || t.Fail > MaxFail {
		return fmt.Errorf("fail is %d, must be 0 to %d", t.Fail, MaxFail)
	}
	if t.Reclaim < 0 || t.Reclaim > MaxReclaim {
		return fmt.Errorf("reclaim is %d, must be 0 to %d", t.Reclaim, MaxReclaim)
	}
	return nil
}

// params are those of tokens, in their order.
func (t Tuning) params() []explore.Param {
	var out []explore.Param
	add := func(key string, n int) {
		if n != 0 {
			out = append(out, explore.Param{Key: key, Value: strconv.Itoa(n)})
		}
	}
	add(tsoParam, int(truth(t.TSO).n))
	add(failParam, t.Fail)
	add(racesParam, int(truth(t.Races).n))
	add(bareParam, int(truth(t.Bare).n))
	add(reclaimParam, t.Reclaim)
	return out
}

// String is the tuning as ParseTuning reads it: "tso=1,fail=1".
func (t Tuning) String() string {
	var parts []string
	for _, p := range t.params() {
		parts = append(parts, p.Key+"="+p.Value)
	}
	return strings.Join(parts, ",")
}

// ParseTuning reads a tuning: "tso=1,fail=1,races=1,bare=1,reclaim=1", each of which may be missing.
func ParseTuning(text string) (Tuning, error) {
	var t Tuning
	for _, part := range strings.Split(text, ",") {
		if part == "" {
			continue
		}
		key, value, _ := strings.Cut(part, "=")
		if err := t.set(key, value); err != nil {
			return t, err
		}
	}
	return t, t.Validate()
}

func (t *Tuning) set(key, value string) error {
	flags := map[string]*bool{tsoParam: &t.TSO, racesParam: &t.Races, bareParam: &t.Bare}
	numbers := map[string]*int{failParam: &t.Fail, reclaimParam: &t.Reclaim}
	if number := numbers[key]; number != nil {
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("%s is %q, must be a number, of at most %d", key, value, MaxFail)
		}
		*number = n
		return nil
	}
	flag := flags[key]
	if flag == nil {
		return fmt.Errorf("a scenario has no parameter %q; there are tso, fail, races, reclaim and bare", key)
	}
	if value != "0" && value != "1" {
		return fmt.Errorf("%s is %q, must be 0 or 1", key, value)
	}
	*flag = value == "1"
	return nil
}

// Tuned returns the scenario as it is run with a tuning.
func (s *Scenario) Tuned(t Tuning) *Scenario {
	c := *s
	c.tune = t
	return &c
}

// Tuning returns how the scenario is tuned.
func (s *Scenario) Tuning() Tuning { return s.tune }

// Reducible reports whether searches that leave out schedules as equivalent to others know
// all that orders the steps of a scenario. They do not know that disks are held, nor what a
// function of the machine's state looks at in a column: neither has a schedule point.
func (s *Scenario) Reducible() bool {
	for _, c := range s.Columns {
		for _, op := range c.Rows {
			if op != nil && (op.Verb == "hold" || op.Verb == opSample) {
				return false
			}
		}
	}
	return true
}

// ForToken returns the scenario as a token names it: tuned, and with what shrinking has left
// out. The error is that of a token for another text.
func (s *Scenario) ForToken(tok explore.Token) (*Scenario, error) {
	c := s
	var t Tuning
	less := ""
	for _, p := range tok.Params {
		switch p.Key {
		case sumParam:
			if p.Value != s.sum() {
				return nil, fmt.Errorf("scenario %s has changed since the token was made: its digest is %s, not %s", s.Name, s.sum(), p.Value)
			}
		case lessParam:
			less = p.Value
		default:
			if err := t.set(p.Key, p.Value); err != nil {
				return nil, fmt.Errorf("scenario %s: %w", s.Name, err)
			}
		}
	}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	c = s.Tuned(t)
	if less == "" {
		return c, nil
	}
	for _, f := range strings.Split(less, "_") {
		i, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("scenario %s: what is left out is %q, expected numbers like 3_0_5", s.Name, less)
		}
		if c = c.less(i); c == nil {
			return nil, fmt.Errorf("scenario %s: there is no cut %d that leaves a scenario", s.Name, i)
		}
	}
	return c, nil
}

// Judged is a scenario's target with verdicts for those who look for what goes wrong: a run
// is safe unless it is Wrong. The verdict of the others stays their state.
func (s *Scenario) Judged(t *explore.Target) *explore.Target { return judgedBy(t, s.Wrong) }

// Wrong reports whether a verdict is not what the condition asks for: that it holds, for
// "always" that it does not, or that the run came to no natural end.
func (s *Scenario) Wrong(verdict string) bool {
	return Positive(verdict) == (s.Cond.Quant != Always) || len(Endings(verdict)) > 0
}
