package speed

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

// all returns 20 rounds of the same figure.
func all(v float64) []float64 {
	s := make([]float64, 20)
	for i := range s {
		s[i] = v
	}
	return s
}

func TestRuleText(t *testing.T) {
	for want, r := range map[string]Rule{
		"<= 1.5 x native":          native(1.5),
		"<= 1.3 x floor":           floor(1.3),
		"<= 8 ns":                  ns(8),
		"<= 10,000 ns":             ns(10000),
		">= 0.5 x memcpy's speed":  memcpy(0.5),
		">= 1.8 x one CPU's speed": oneCPU(1.8),
		">= 5,000 schedules/s":     perSecond(5000),
		"<= 64 bytes":              value(64, "bytes"),
		"<= 4 %":                   value(4, "%"),
	} {
		assert.Equal(t, want, r.String())
	}
	g := goal(native(1), floor(1.3), native(0.45))
	assert.Equal(t, "<= 1 x native", g.Text(FoundationStage))
	assert.Equal(t, "<= 1.3 x floor, <= 0.45 x native", g.Text(FinalStage))
	assert.Equal(t, "-", Goal{}.Text(FinalStage))
}

func TestJudgeBothWays(t *testing.T) {
	for _, c := range []struct {
		name string
		rule Rule
		s    Samples
		met  bool
	}{
		{"native above", native(1.5), Samples{Native: all(100), Emulated: all(151)}, false},
		{"native at the bound", native(1.5), Samples{Native: all(100), Emulated: all(150)}, true},
		{"native below", native(1.5), Samples{Native: all(100), Emulated: all(20)}, true},
		{"floor above", floor(1.3), Samples{Floor: all(10), Emulated: all(13.1)}, false},
		{"floor below", floor(1.3), Samples{Floor: all(10), Emulated: all(12.9)}, true},
		{"time above", ns(8), Samples{Emulated: all(8.1)}, false},
		{"time below", ns(8), Samples{Emulated: all(7.9)}, true},
		{"half of memcpy's speed", memcpy(0.5), Samples{Native: all(100), Emulated: all(200)}, true},
		{"slower than that", memcpy(0.5), Samples{Native: all(100), Emulated: all(201)}, false},
		{"scaling enough", oneCPU(1.5), Samples{Base: all(160), Emulated: all(100)}, true},
		{"scaling too little", oneCPU(1.5), Samples{Base: all(140), Emulated: all(100)}, false},
		{"rate enough", perSecond(1000), Samples{Emulated: all(1e6)}, true},
		{"rate too low", perSecond(1000), Samples{Emulated: all(1.1e6)}, false},
		{"size right", value(64, "bytes"), Samples{Value: []float64{64}}, true},
		{"size wrong", value(64, "bytes"), Samples{Value: []float64{72}}, false},
	} {
		v := Goal{Final: []Rule{c.rule}}.Judge(FinalStage, c.s, 0.95)
		assert.Equal(t, c.met, v.Met, c.name)
		assert.True(t, v.Known, c.name)
		assert.True(t, v.Clear, c.name)
		assert.NotEmpty(t, v.Text, c.name)
	}
}

func TestJudgeNeedsEveryRule(t *testing.T) {
	g := goal(native(1), floor(1.3), native(0.45))
	s := Samples{Native: all(1000), Floor: all(400), Emulated: all(500)}
	assert.True(t, g.Judge(FoundationStage, s, 0.95).Met)
	v := g.Judge(FinalStage, s, 0.95)
	assert.False(t, v.Met, "1.25 x floor holds, 0.5 x native does not")
	assert.True(t, v.Known)
	assert.Equal(t, "1.25 [1.25, 1.25] x floor, 0.500 [0.500, 0.500] x native", v.Text)
}

func TestJudgeWithoutASide(t *testing.T) {
	g := Goal{Final: []Rule{native(1)}}
	v := g.Judge(FinalStage, Samples{Native: all(1), Floor: all(1)}, 0.95)
	assert.Equal(t, Verdict{Text: "not built yet"}, v)
	v = g.Judge(FinalStage, Samples{Emulated: all(1), Floor: all(1)}, 0.95)
	assert.Equal(t, Verdict{Text: "no native figure"}, v)
	v = Goal{}.Judge(FinalStage, Samples{}, 0.95)
	assert.True(t, v.Met && v.Known, "nothing asked for")
}

func TestJudgeByTheMedianOfPairedRatios(t *testing.T) {
	// Medians of the columns would say 1.0; the rounds say 2.
	s := Samples{Native: []float64{1, 10, 100}, Emulated: []float64{2, 10, 300}}
	v := Goal{Final: []Rule{native(1.9)}}.Judge(FinalStage, s, 0.95)
	assert.False(t, v.Met)
	assert.False(t, v.Clear, "the interval reaches from 1 to 3")
	assert.Contains(t, v.Text, "2.00 [1.00, 3.00]")
	s.Native[0] = math.NaN() // a round that was cut short counts for nothing
	v = Goal{Final: []Rule{native(1.9)}}.Judge(FinalStage, s, 0.95)
	assert.Contains(t, v.Text, "2.00 [1.00, 3.00]")
}
