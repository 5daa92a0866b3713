package speed

import (
	"fmt"
	"math"
	"strings"
)

// Side names one thing that can be timed in a round.
type Side uint8

// The sides. A rule of no side compares with a number.
const (
	Number   Side = iota // no side: the rule's factor is the bound itself
	Native               // the host's kernel, or its stand-in
	Floor                // the bare Go loop
	Base                 // the emulator in the plainer form the row names
	Emulated             // the emulator
)

// String returns the side's name as goals print it.
func (s Side) String() string {
	switch s {
	case Native:
		return "native"
	case Floor:
		return "floor"
	case Base:
		return "base"
	case Emulated:
		return "emulated"
	}
	return "number"
}

// Stage selects a column of goals.
type Stage uint8

// The stages.
const (
	FinalStage      Stage = iota // the goal
	FoundationStage              // what must hold before more is built on it
)

// Rule is one comparison of the emulated side. The zero value of AtLeast makes
// it an upper bound on time (or on a value); AtLeast a lower bound on speed,
// which is one over time.
type Rule struct {
	AtLeast bool    // speed >= Factor x speed of Of, instead of time <= Factor x time of Of
	Factor  float64 // > 0
	Of      Side    // Number compares with Factor itself
	Unit    string  // with Number: "ns" (the default) or a value's unit; with AtLeast units each second, e.g. "schedules/s"
	Name    string  // printed for Of when the side's own name says too little, e.g. "memcpy"
}

// String returns the rule as text: "<= 1.5 x native", ">= 0.5 x memcpy's speed".
func (r Rule) String() string {
	sign, speed := "<=", ""
	if r.AtLeast {
		sign, speed = ">=", "'s speed"
	}
	if r.Of == Number {
		unit := r.Unit
		if unit == "" {
			unit = "ns"
		}
		f := plain(r.Factor)
		if unit == "%" {
			return fmt.Sprintf("%s %s %%", sign, f)
		}
		return fmt.Sprintf("%s %s %s", sign, f, unit)
	}
	name := r.Name
	if name == "" {
		name = r.Of.String()
	}
	return fmt.Sprintf("%s %s x %s%s", sign, plain(r.Factor), name, speed)
}

// plain formats a bound: thousands grouped, no padding.
func plain(v float64) string {
	if v >= 1000 && v == math.Trunc(v) {
		return grouped(v)
	}
	return fmt.Sprintf("%g", v)
}

// Goal holds what a row must reach. All rules of a column must hold; an empty
// column asks for nothing.
type Goal struct {
	Foundation []Rule
	Final      []Rule
}

// Rules returns the column of a stage.
func (g Goal) Rules(s Stage) []Rule {
	if s == FoundationStage {
		return g.Foundation
	}
	return g.Final
}

// Text returns the column of a stage as one line, "-" if it is empty.
func (g Goal) Text(s Stage) string {
	rules := g.Rules(s)
	if len(rules) == 0 {
		return "-"
	}
	parts := make([]string, len(rules))
	for i, r := range rules {
		parts[i] = r.String()
	}
	return strings.Join(parts, ", ")
}

// Samples are the rounds of one row: ns for each unit, one entry a round. A side
// that was not measured is nil, a round that lacks a side has NaN there.
type Samples struct {
	Native, Floor, Base, Emulated []float64
	Value                         []float64 // of rows that count something instead of timing it
}

// of returns the samples of a side.
func (s Samples) of(side Side) []float64 {
	switch side {
	case Native:
		return s.Native
	case Floor:
		return s.Floor
	case Base:
		return s.Base
	case Emulated:
		return s.Emulated
	}
	return nil
}

// Verdict is the judgement of one column of one row.
type Verdict struct {
	Met    bool   // every rule holds for the median
	Known  bool   // every rule could be judged
	Missed bool   // a rule that could be judged does not hold
	Clear  bool   // every interval lies wholly on the median's side of its bound
	Text   string // the figures: "1.21 [1.15, 1.30] x native", or why there are none
}

// Judge evaluates the column of a stage for the samples, with intervals of at
// least the given probability. A rule that lacks a side is not met and the
// verdict is not known. An empty column is met.
func (g Goal) Judge(stage Stage, s Samples, level float64) Verdict {
	v := Verdict{Met: true, Known: true, Clear: true}
	var parts []string
	for _, r := range g.Rules(stage) {
		one := r.judge(s, level)
		v.Met = v.Met && one.Met
		v.Known = v.Known && one.Known
		v.Missed = v.Missed || one.Missed
		v.Clear = v.Clear && one.Clear
		parts = append(parts, one.Text)
	}
	v.Text = strings.Join(parts, ", ")
	return v
}

// judge evaluates one rule.
func (r Rule) judge(s Samples, level float64) Verdict {
	figures, text := r.figures(s)
	e, ok := Median(figures, level)
	if !ok {
		return Verdict{Text: text}
	}
	holds := func(x float64) bool {
		if r.AtLeast {
			return x >= r.Factor
		}
		return x <= r.Factor
	}
	return Verdict{
		Met:    holds(e.Median),
		Known:  true,
		Missed: !holds(e.Median),
		Clear:  holds(e.Lo) == holds(e.Hi),
		Text:   e.String() + text,
	}
}

// figures returns the rounds' figures that the rule's factor is compared with and
// the text that follows them; with no figures, the text says what is missing.
func (r Rule) figures(s Samples) ([]float64, string) {
	if r.Of == Number && s.Value != nil {
		return s.Value, " " + r.unit()
	}
	if s.Emulated == nil {
		return nil, "not built yet"
	}
	if r.Of == Number {
		if !r.AtLeast {
			return s.Emulated, " " + r.unit()
		}
		rate := make([]float64, len(s.Emulated))
		for i, ns := range s.Emulated {
			rate[i] = 1e9 / ns
		}
		return rate, " " + r.unit()
	}
	other := s.of(r.Of)
	if other == nil {
		return nil, "no " + r.Of.String() + " figure"
	}
	name := r.Name
	if name == "" {
		name = r.Of.String()
	}
	if r.AtLeast {
		return ratios(other, s.Emulated), " x " + name + "'s speed"
	}
	return ratios(s.Emulated, other), " x " + name
}

// unit returns the unit a Number rule's figures have.
func (r Rule) unit() string {
	if r.Unit == "" {
		return "ns"
	}
	return r.Unit
}
