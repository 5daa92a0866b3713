package bench

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/tests/speed"
)

// TestAttach: every row has an emulated side.
func TestAttach(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	ops := speed.Catalog(nil)
	cleanup, err := Attach(ops, hosts)
	require.NoError(t, err)
	defer cleanup()
	for _, op := range ops {
		assert.True(t, op.Emulated != nil || op.Value != nil, op.Name)
	}
}

// TestBatches runs every row once, on small machines, through the harness.
func TestBatches(t *testing.T) {
	l := testLab(t, nil)
	ops := speed.Catalog(nil)
	require.NoError(t, l.attach(ops))
	var run []speed.Op
	for _, op := range ops {
		op.Native = speed.NativeSpec{}
		if op.Emulated != nil {
			op.N = min(op.N, 1000)
			run = append(run, op)
		}
	}
	r, err := speed.Measure(context.Background(), run, speed.Options{Pairs: 1, BatchLimit: 5 * time.Minute, OpLimit: 5 * time.Minute})
	require.NoError(t, err)
	require.Len(t, r.Lines, len(run))
	for _, line := range r.Lines {
		assert.NotNil(t, line.Emulated, "%s: %v", line.Op, line.Notes)
		if strings.HasPrefix(line.Op, "schedules") {
			assert.Regexp(t, `^schedules of [1-9]\d+ points \(median\)$`, line.Notes[len(line.Notes)-1], line.Op)
		}
		if line.Op == "schedules-2" {
			assert.Contains(t, line.Final.Text, "one worker's speed")
		}
	}
}

// TestTogetherUsesEveryCPU: what is meant to run side by side does.
func TestTogetherUsesEveryCPU(t *testing.T) {
	l := testLab(t, nil)
	var on [2]int
	require.NoError(t, l.duo.run(func(th *kernel.Thread) {
		together(th, 2, func(c *kernel.Thread, i int, meet, done func()) {
			meet()
			on[i] = c.CPU()
			done()
		})
	}))
	assert.NotEqual(t, on[0], on[1])
}
