package cli

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/cowlab/cowlab/kernel/sched"
)

// TestStuckHasItsExitCode: a policy that loops in Go is neither a verdict nor a failure like others.
func TestStuckHasItsExitCode(t *testing.T) {
	var said bytes.Buffer
	e := &env{stderr: &said}
	assert.Equal(t, exitStuck, e.exit(fmt.Errorf("a cell: %w", &sched.StuckError{Detail: "cpu 1 runs task 2"})))
	assert.Contains(t, said.String(), "cpu 1 runs task 2")
	assert.Equal(t, exitFailed, e.exit(fmt.Errorf("something else")))
	e, out, _ := newEnv()
	assert.Equal(t, exitOK, run(e, []string{"-h"}))
	assert.Contains(t, out.String(), fmt.Sprintf("%d a policy loops", exitStuck), "the help names it")
}
