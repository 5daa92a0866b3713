package speed

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// builtProbe compiles the probes or skips the test.
func builtProbe(t *testing.T) *Probe {
	t.Helper()
	p, err := BuildProbe(t.Context(), t.TempDir())
	if errors.Is(err, ErrNoCompiler) {
		t.Skip("the native column cannot be tested: ", err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, p.Close()) })
	return p
}

// needLinux skips where the probes are not meant to compile.
func needLinux(t *testing.T) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("the native column exists on Linux only")
	}
}

func TestProbe(t *testing.T) {
	if testing.Short() {
		t.Skip("compiles and runs the native probes")
	}
	needLinux(t)
	p := builtProbe(t)
	t.Run("protocol", func(t *testing.T) { testProtocol(t, p) })
	t.Run("end", func(t *testing.T) { testEnd(t, p) })
	t.Run("measure", func(t *testing.T) { testMeasure(t, p) })
}

func testProtocol(t *testing.T, p *Probe) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute) // a bound, not an expectation, like those below
	defer cancel()

	// Every operation that the catalogue names exists and answers a small batch.
	// Where this host cannot do one (a single CPU, a temporary directory on
	// tmpfs), the probe says so in words.
	for _, op := range Catalog(nil) {
		if op.Native.Probe == "" {
			continue
		}
		s, err := p.Start(ctx, op.Native.Probe, op.Native.Options...)
		if err != nil {
			assert.NotContains(t, err.Error(), "no such operation", op.Name)
			t.Logf("%s: not on this host: %v", op.Name, err)
			continue
		}
		for range 2 {
			_, err := s.Run(ctx, min(op.N, 100), time.Minute)
			assert.NoError(t, err, op.Name)
		}
		s.Close()
	}

	_, err := p.Start(ctx, "nosuch")
	assert.ErrorContains(t, err, "no such operation")

	s, err := p.Start(ctx, "exit")
	require.NoError(t, err)
	_, err = s.Run(ctx, 1, time.Minute)
	assert.ErrorContains(t, err, "at least 10 pages")
	_, err = s.Run(ctx, 0, time.Minute)
	assert.ErrorContains(t, err, "bad request")
	_, err = s.Run(ctx, 10, time.Minute)
	assert.NoError(t, err, "an operation that failed leaves the probe alive")
	s.Close()
	_, err = s.Run(ctx, 10, time.Minute)
	assert.Error(t, err)
}

func testEnd(t *testing.T, p *Probe) {
	ctx, cancel := context.WithCancel(t.Context())
	s, err := p.Start(ctx, "load")
	require.NoError(t, err)
	cancel()
	_, err = s.Run(ctx, 1<<40, time.Minute)
	assert.Error(t, err)
	s.Close()

	s, err = p.Start(t.Context(), "load")
	require.NoError(t, err)
	_, err = s.Run(t.Context(), 1<<40, time.Millisecond)
	assert.ErrorContains(t, err, "no answer within")
	s.Close()
}

func testMeasure(t *testing.T, p *Probe) {
	op := *mustFind(t, Catalog(smallFloors(t, Sequential)), "load-hit")
	var order []string
	op.Emulated = said(&order, "E", 1)
	r, err := Measure(t.Context(), []Op{op}, Options{Pairs: 2, Shrink: 100, Probe: p})
	require.NoError(t, err)
	assert.NotNil(t, r.Lines[0].NativeNS)
	assert.NotNil(t, r.Lines[0].FloorNS)
	assert.NotNil(t, r.Lines[0].OverNative)
}

func TestWithoutACompiler(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := BuildProbe(t.Context(), t.TempDir())
	assert.ErrorIs(t, err, ErrNoCompiler)
}
