package speed

import (
	"fmt"
	"math"
	"slices"
)

// Estimate is a median with an interval around it.
type Estimate struct {
	Median float64 // of the samples, in their unit
	Lo, Hi float64 // order statistics that enclose the true median
	Level  float64 // with at least this probability, 0 to 1
	N      int     // samples
}

// String formats the estimate as "1.21 [1.15, 1.30]".
func (e Estimate) String() string {
	return fmt.Sprintf("%s [%s, %s]", figure(e.Median), figure(e.Lo), figure(e.Hi))
}

// Median returns the median of the samples and the narrowest symmetric pair of
// order statistics that encloses the true median with at least the given
// probability. With too few samples for that the interval is the whole range
// and Level says what it is worth. NaNs are left out. Ok is false when nothing
// is left. The samples are not changed.
//
// For the k-th smallest and k-th largest of n independent samples the
// probability is 1 - 2*P(X < k) with X binomial (n, 1/2): the interval misses
// only if fewer than k samples fall on one side of the median.
func Median(samples []float64, level float64) (e Estimate, ok bool) {
	s := make([]float64, 0, len(samples))
	for _, v := range samples {
		if !math.IsNaN(v) {
			s = append(s, v)
		}
	}
	n := len(s)
	if n == 0 {
		return Estimate{}, false
	}
	slices.Sort(s)
	k, got := orderStatistic(n, level)
	e = Estimate{Lo: s[k-1], Hi: s[n-k], Level: got, N: n}
	if n%2 == 1 {
		e.Median = s[n/2]
	} else {
		e.Median = (s[n/2-1] + s[n/2]) / 2
	}
	return e, true
}

// orderStatistic returns the largest k for which the k-th smallest and k-th
// largest of n samples enclose the median with at least the probability level,
// and the probability; k is 1 when none does.
//
// Precondition: n >= 1.
func orderStatistic(n int, level float64) (k int, got float64) {
	// term is C(n,i)/2^n, tail the sum of terms below k. Logarithms keep large n
	// from underflow: the first terms vanish, and that is right.
	logTerm := -float64(n) * math.Ln2
	tail := math.Exp(logTerm)
	k, got = 1, max(0, 1-2*tail)
	for i := 1; i < (n+1)/2; i++ {
		logTerm += math.Log(float64(n-i+1) / float64(i))
		tail += math.Exp(logTerm)
		p := 1 - 2*tail
		if p < level {
			break
		}
		k, got = i+1, p
	}
	return k, got
}

// ratios returns a[i]/b[i] for each round that has both, NaN for the others.
func ratios(a, b []float64) []float64 {
	out := make([]float64, min(len(a), len(b)))
	for i := range out {
		out[i] = a[i] / b[i]
		if !(b[i] > 0) || math.IsInf(out[i], 0) {
			out[i] = math.NaN()
		}
	}
	return out
}

// figure formats a number with three significant digits and groups thousands:
// 0.123, 4.25, 570, 63,100.
func figure(v float64) string {
	a := math.Abs(v)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case a == 0:
		return "0"
	case a < 0.001:
		return fmt.Sprintf("%.2g", v)
	case a < 1:
		return fmt.Sprintf("%.3f", v)
	case a < 10:
		return fmt.Sprintf("%.2f", v)
	case a < 100:
		return fmt.Sprintf("%.1f", v)
	}
	return grouped(v)
}

// grouped formats a whole number with a comma at each thousand.
func grouped(v float64) string {
	s := fmt.Sprintf("%.0f", math.Abs(v))
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if v < 0 {
		s = "-" + s
	}
	return s
}
