package sched

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// A machine that has not come to its first step when the watchdog looks for the first time,
// or that stands still for a look now and then, is none that a task holds up: the host ran others.
func TestWatchdogLooksMoreThanOnce(t *testing.T) {
	var s stillness
	for step := range uint64(4) {
		for look := 1; look < watchdogLooks; look++ {
			assert.False(t, s.look(step, 0), "step %d, look %d", step, look)
		}
	}
	for progress := range uint64(4) {
		assert.False(t, s.look(4, progress), "progress %d", progress)
	}
	for look := 1; look < watchdogLooks; look++ {
		assert.False(t, s.look(4, 3))
	}
	assert.True(t, s.look(4, 3), "nothing moves")
}
