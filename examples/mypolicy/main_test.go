package main

import (
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The test binary is the command too.
func TestMain(m *testing.M) {
	if os.Getenv("MYPOLICY_COMMAND") != "" {
		main()
	}
	os.Exit(m.Run())
}

func command(t *testing.T, args ...string) string {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "MYPOLICY_COMMAND=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%v: %s", args, out)
	return string(out)
}

// Every verb knows the policy.
func TestVerbs(t *testing.T) {
	assert.Regexp(t, `(?m)^count_copy +- +you +fork copies pages`, command(t, "list"))
	assert.Contains(t, command(t, "explain", "count_copy"), "What it changes")
	assert.Contains(t, command(t, "run", "forkscrew", "-policy", "count_copy", "-regime", "timed"), ": safe\n")
}

// What the comment of the command says of the table.
func TestMatrix(t *testing.T) {
	out := command(t, "matrix", "-policies", "stock,count_copy", "-workloads", "forkscrew", "-schedules", "200", "-parallel", "0")
	assert.Regexp(t, `(?m)^stock +lost-read`, out)
	assert.Regexp(t, `(?m)^count_copy +safe`, out)
	out = command(t, "matrix", "-policies", "count_copy", "-workloads", "forkscrewreverse", "-schedules", "400", "-parallel", "0")
	assert.Regexp(t, `(?m)^count_copy +leak-to-disk`, out)
	// One schedule in a thousand shows it.
	out = command(t, "matrix", "-policies", "count_copy", "-workloads", "pin_fork", "-schedules", "4000", "-parallel", "0")
	assert.Regexp(t, `(?m)^count_copy +lost-read`, out)
	tok := regexp.MustCompile(`cl1\.pin_fork\.count_copy\.\S+`).FindString(out)
	require.NotEmpty(t, tok)
	assert.Contains(t, command(t, "replay", tok, "-times", "3"), "pin_fork under count_copy: lost-read")
}
