package x86

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCostConversions(t *testing.T) {
	m := DefaultCost()
	assert.EqualValues(t, 2930, m.NSToCycles(1000))
	assert.EqualValues(t, 1000, m.CyclesToNS(2930))
	assert.EqualValues(t, 3, m.NSToCycles(1), "rounded up: never early")
	assert.EqualValues(t, 2_930_000_000*3600*24*365, m.NSToCycles(1e9*3600*24*365))
	for ns := uint64(0); ns < 1e12; ns = ns*3 + 1 {
		require.GreaterOrEqual(t, m.CyclesToNS(m.NSToCycles(ns)), ns)
		require.LessOrEqual(t, m.CyclesToNS(m.NSToCycles(ns)), ns+1)
	}
	assert.EqualValues(t, uint64(math.MaxUint64), m.NSToCycles(math.MaxUint64))
	m.GHz = 0.5
	assert.EqualValues(t, uint64(math.MaxUint64), m.CyclesToNS(math.MaxUint64))
}

func TestCostScale(t *testing.T) {
	m := DefaultCost()
	require.Contains(t, m.Names(), "Locked")
	for _, name := range m.Names() {
		got, err := m.Scale(name, 1.5)
		require.NoError(t, err)
		assert.NotEqual(t, *m, got, name)
		back, err := m.Scale(name, 1)
		require.NoError(t, err)
		assert.Equal(t, *m, back)
		tiny, err := m.Scale(name, 1e-9)
		require.NoError(t, err)
		tiny.GHz = 1
		ops := tiny.ops()
		assert.NotContains(t, ops[1:], uint64(0), "a point always takes time")
	}
	s, err := m.Scale("Locked", 1.5)
	require.NoError(t, err)
	assert.EqualValues(t, 30, s.Locked)
	assert.EqualValues(t, 20, m.Locked, "the original stays")
	for _, f := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		_, err = m.Scale("Locked", f)
		assert.Error(t, err)
	}
	_, err = m.Scale("locked", 2)
	assert.ErrorContains(t, err, `"locked"`)
}

func TestOpCosts(t *testing.T) {
	m := DefaultCost()
	ops := m.ops()
	assert.Equal(t, m.Locked+m.PointBase, ops[OpPTERMW])
	assert.Equal(t, m.Locked+m.PointBase, ops[OpLock])
	assert.Equal(t, m.PTEWrite+m.PointBase, ops[OpPTEWrite])
	assert.Equal(t, m.PointBase, ops[OpSwitch], "charged by the scheduler when there is a switch")
	assert.Less(t, ops[OpLoad], ops[OpRMW])
}
