package speed

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestMedianKnownAnswers(t *testing.T) {
	seq := func(n int) []float64 {
		s := make([]float64, n)
		for i := range s {
			s[i] = float64(n - i) // n..1: Median has to sort
		}
		return s
	}
	// The order statistics and their coverage are the textbook's for the sign
	// test: 1 - 2*sum(C(n,i), i < k)/2^n.
	for _, c := range []struct {
		n      int
		level  float64
		median float64
		lo, hi float64
		worth  float64
	}{
		{1, 0.95, 1, 1, 1, 0},
		{2, 0.95, 1.5, 1, 2, 0.5},
		{5, 0.95, 3, 1, 5, 0.9375},
		{6, 0.95, 3.5, 1, 6, 0.96875},
		{8, 0.95, 4.5, 1, 8, 0.9921875},
		{9, 0.95, 5, 2, 8, 0.9609375},
		{20, 0.95, 10.5, 6, 15, 0.9586105},
		{20, 0.99, 10.5, 4, 17, 0.9974231},
		{100, 0.95, 50.5, 40, 61, 0.9647998},
		{5, 0.5, 3, 2, 4, 0.625},
	} {
		e, ok := Median(seq(c.n), c.level)
		assert.True(t, ok)
		assert.Equal(t, c.n, e.N)
		assert.Equal(t, c.median, e.Median, "n=%d", c.n)
		assert.Equal(t, [2]float64{c.lo, c.hi}, [2]float64{e.Lo, e.Hi}, "n=%d level=%g", c.n, c.level)
		assert.InDelta(t, c.worth, e.Level, 1e-6, "n=%d level=%g", c.n, c.level)
	}
}

func TestMedianLeavesOutWhatIsMissing(t *testing.T) {
	nan := math.NaN()
	in := []float64{nan, 3, 1, nan, 2}
	e, ok := Median(in, 0.95)
	assert.True(t, ok)
	assert.Equal(t, 2.0, e.Median)
	assert.Equal(t, 3, e.N)
	assert.Equal(t, 3.0, in[1], "the samples are the caller's")
	_, ok = Median([]float64{nan}, 0.95)
	assert.False(t, ok)
	_, ok = Median(nil, 0.95)
	assert.False(t, ok)
}

func TestMedianOfVeryManySamples(t *testing.T) {
	s := make([]float64, 5000) // 2^-5000 underflows
	for i := range s {
		s[i] = float64(i + 1)
	}
	e, ok := Median(s, 0.95)
	assert.True(t, ok)
	assert.Equal(t, 2500.5, e.Median)
	// The normal approximation: 2500 -+ 1.96*sqrt(5000)/2.
	assert.InDelta(t, 2431, e.Lo, 2)
	assert.InDelta(t, 2570, e.Hi, 2)
	assert.GreaterOrEqual(t, e.Level, 0.95)
}

func TestRatiosByRounds(t *testing.T) {
	r := ratios([]float64{2, 9, 1, 4}, []float64{1, 3, 0, math.NaN(), 7})
	assert.Equal(t, []float64{2, 3}, r[:2])
	assert.True(t, math.IsNaN(r[2]), "a stand-in measured as nothing gives no ratio")
	assert.True(t, math.IsNaN(r[3]))
	assert.Len(t, r, 4)
	// A slope can come out negative on a noisy host; that is no ratio either.
	assert.True(t, math.IsNaN(ratios([]float64{1}, []float64{-2})[0]))
}

func TestDriftCancelsInPairedRatios(t *testing.T) {
	// The host slows down tenfold half way; the ratio stays what it is.
	var a, b []float64
	for i := range 20 {
		speed := 1.0
		if i >= 10 {
			speed = 10
		}
		a, b = append(a, 15*speed), append(b, 10*speed)
	}
	e, ok := Median(ratios(a, b), 0.95)
	assert.True(t, ok)
	assert.InDelta(t, 1.5, e.Lo, 1e-12)
	assert.InDelta(t, 1.5, e.Hi, 1e-12)
}

func TestFigure(t *testing.T) {
	for want, v := range map[string]float64{
		"0": 0, "0.456": 0.4561, "4.21": 4.2101, "12.3": 12.34, "570": 570.4,
		"1,900": 1900, "63,100": 63100, "1,234,568": 1234567.8, "-1,234": -1234, "-": math.NaN(),
	} {
		assert.Equal(t, want, figure(v))
	}
}
