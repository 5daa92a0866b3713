package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/mm/policy"
)

// The test binary is the command too: testscript.Main puts a copy called cowlab into
// the path. watched-cowlab is the command as on a terminal, which says on stderr when it may be interrupted.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"cowlab": func() { os.Exit(Main(policy.All())) },
		"watched-cowlab": func() {
			os.Exit(process(&env{policies: policy.All(), stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, tty: true,
				caught: func() { fmt.Fprintln(os.Stderr, "interrupts are caught") }}))
		},
	})
}

// TestScripts runs testdata/*.txtar. Beside testscript's own commands there are
//
//	status N cowlab ...   the command must exit with N
//	token VERDICT VAR     sets VAR to the first token in stdout below a cell with the verdict
//	grep-token NAME         sets TOKEN to the first token in stdout for a scenario in which
//	                        its condition holds
//	fields PATH NAME...   the JSON objects at PATH in stdout have exactly these fields
//	json FILE             the file holds JSON (stdout counts as a file)
//	lines MIN MAX         stdout has so many lines
//	replace OLD NEW FILE  puts NEW where OLD is in the file
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       os.Getenv("UPDATE") != "",
		Setup:               setupScript,
		Condition: func(cond string) (bool, error) {
			if cond == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": scriptStatus, "token": scriptToken, "grep-token": scriptGrepToken, "fields": scriptFields, "json": scriptJSON, "lines": scriptLines,
			"replace": scriptReplace,
		},
	})
}

// setupScript gives scripts what they cannot make themselves: tokens with a right
// checksum for things that do not exist, a file of 0xff, and a path without a compiler.
func setupScript(e *testscript.Env) error {
	for name, tok := range map[string]explore.Token{
		"NO_POLICY":   {Target: "forkscrew", Policy: "stok"},
		"NO_WORKLOAD": {Target: "forkscrw", Policy: "stock"},
		"BAD_VALUE":   {Target: "forkscrew", Policy: "stock", Params: []explore.Param{{Key: "a", Value: "100"}}},
		"NO_PARAM":    {Target: "forkscrew", Policy: "stock", Params: []explore.Param{{Key: "b", Value: "1"}}},
		"GO_TEST":     {Target: "TestMine", Policy: "stock"},
	} {
		tok.Spec = explore.Spec{Kind: explore.KindRandom, Seed: 1}
		e.Setenv(name, tok.String())
	}
	bin, err := exec.LookPath("cowlab")
	if err != nil {
		return err
	}
	e.Setenv("COWLAB_BIN", filepath.Dir(bin))
	return os.WriteFile(filepath.Join(e.WorkDir, "ff.img"), bytes.Repeat([]byte{0xff}, 16384), 0o666)
}

func scriptStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	err = ts.Exec(args[1], args[2:]...)
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d\nstdout: %s\nstderr: %s", got, want, ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	}
}

func scriptToken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: token VERDICT VAR")
	}
	m := regexp.MustCompile(`(?m)(?:: |^)` + args[0] + `.*\n(?:.*\n)? +cowlab replay (cl1\S+)`).FindStringSubmatch(ts.ReadFile("stdout"))
	if m == nil {
		ts.Fatalf("no token for %s in:\n%s", args[0], ts.ReadFile("stdout"))
	}
	ts.Setenv(args[1], m[1])
}

func scriptGrepToken(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: grep-token NAME")
	}
	tok := regexp.MustCompile(`cl1\.` + args[0] + `\S+`).FindString(ts.ReadFile("stdout"))
	if tok == "" {
		ts.Fatalf("no token for %s in:\n%s", args[0], ts.ReadFile("stdout"))
	}
	ts.Setenv("TOKEN", tok)
}

func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	var v any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &v); (err != nil) != neg {
		ts.Fatalf("%s: %v", args[0], err)
	}
}

func scriptFields(ts *testscript.TestScript, neg bool, args []string) {
	var v map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	objects := []any{v}
	if args[0] != "." {
		objects, _ = v[args[0]].([]any)
	}
	if len(objects) == 0 {
		ts.Fatalf("nothing at %q", args[0])
	}
	want := slices.Sorted(slices.Values(args[1:]))
	for _, o := range objects {
		fields, _ := o.(map[string]any)
		var got []string
		for name := range fields {
			got = append(got, name)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) != neg {
			ts.Fatalf("fields %v, want %v", got, want)
		}
	}
}

func scriptReplace(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: replace OLD NEW FILE")
	}
	file := ts.MkAbs(args[2])
	text := ts.ReadFile(args[2])
	if !strings.Contains(text, args[0]) {
		ts.Fatalf("%s does not hold %q", args[2], args[0])
	}
	ts.Check(os.WriteFile(file, []byte(strings.ReplaceAll(text, args[0], args[1])), 0o666))
}

func scriptLines(ts *testscript.TestScript, _ bool, args []string) {
	least, err := strconv.Atoi(args[0])
	ts.Check(err)
	most, err := strconv.Atoi(args[1])
	ts.Check(err)
	if n := strings.Count(ts.ReadFile("stdout"), "\n"); n < least || n > most {
		ts.Fatalf("%d lines, want %d to %d:\n%s", n, least, most, ts.ReadFile("stdout"))
	}
}

// Ctrl-C ends every long verb with status 3 and what was found so far. It comes when the
// command has said what it must have got to, however long the host takes for that.
func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no SIGINT")
	}
	t.Parallel()
	for _, c := range []struct{ name, args, at, want string }{
		{"search", "matrix -policies stock -workloads forkscrew -schedules 100000 -parallel 0", ` [1-9]\d*% stock on forkscrew`, `stock +lost-read`},
		{"parallel", "matrix -policies stock -workloads forkscrew -schedules 0 -parallel 5000", ` [1-9]\d*% stock on forkscrew`, `stock +lost-read`},
		{"json", "matrix -policies pg_gup -workloads pin_fork -schedules 100000 -parallel 0 -format json", ` [1-9]\d*% pg_gup on pin_fork`, `"verdict": "safe"`},
		{"soak", "run forkscrew -duration 100h", `[1-9]\d* lost-read`, `runs showed lost-read`},
		{"run", "run forkscrew -rounds 1000000 -policy pg_gup", `interrupts are caught`, `parallel regime: interrupted`},
		{"litmus", "litmus S7 -policies stock,pg_gup -schedules 60000", ` [1-9]\d*% stock on S7`, `Observation S7 Sometimes`},
		{"replay", "replay @ -times 1000000000", `replay [1-9]\d* of 1000000000`, ``},
		{"claims", "claims C15 C12 -deep -schedules 20", `% C12`, `(?m)^C15 +depends`},
		{"terminated", "matrix -policies stock -workloads forkscrew -schedules 100000 -parallel 0", ` [1-9]\d*% stock on forkscrew`, `stock +lost-read`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			sig := os.Interrupt
			if c.name == "terminated" { // as timeout(1) does
				sig = syscall.SIGTERM
			}
			args := strings.Fields(c.args)
			if i := slices.Index(args, "@"); i >= 0 {
				args[i] = token(t)
			}
			cmd := exec.Command("watched-cowlab", args...)
			var stdout bytes.Buffer
			cmd.Stdout = &stdout
			stderr, err := cmd.StderrPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			said, at := []byte(nil), regexp.MustCompile(c.at)
			for part := make([]byte, 4096); ; {
				n, err := stderr.Read(part)
				said = append(said, part[:n]...)
				if err != nil {
					break // it has ended
				}
				if at != nil && at.Match(said) {
					require.NoError(t, cmd.Process.Signal(sig))
					bound := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Kill() }) // not an expectation
					defer bound.Stop()
					at = nil
				}
			}
			_ = cmd.Wait()
			require.Nil(t, at, "it ended without saying %q: %s%s", c.at, said, stdout.String())
			assert.Equal(t, exitFailed, cmd.ProcessState.ExitCode(), "%s%s", said, stdout.String())
			assert.Contains(t, string(said), "cowlab: interrupted")
			assert.Regexp(t, c.want, stdout.String())
		})
	}
}

// cow is too quick for a signal to meet it: here it finds its context ended.
func TestInterruptCow(t *testing.T) {
	e, stdout, stderr := newEnv()
	ctx, cancel := context.WithCancel(e.ctx)
	cancel()
	e.ctx = ctx
	assert.Equal(t, exitFailed, run(e, []string{"cow", "-format", "json"}))
	assert.JSONEq(t, `{"cells": []}`, stdout.String())
	assert.Contains(t, stderr.String(), "cowlab: interrupted")
}

// fullDisk is a writer that has no room.
type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// What could not be written is a failure, whichever way a verb writes.
func TestFullDisk(t *testing.T) {
	for _, args := range []string{"version", "-h", "list", "explain stock", "run pin_fork -small", "run pin_fork -small -runs 2", "litmus S1 -policies stock -schedules 2", "claims -list"} {
		e, _, stderr := newEnv()
		e.stdout = fullDisk{}
		assert.Equal(t, exitFailed, run(e, strings.Fields(args)), args)
		assert.Equal(t, "cowlab: no space left\n", stderr.String(), args)
	}
}

// token finds a token for forkscrew under stock.
func token(t *testing.T) string {
	out, err := exec.Command("cowlab", "matrix", "-policies", "stock", "-workloads", "forkscrew", "-schedules", "60", "-parallel", "0").Output()
	require.NoError(t, err)
	tok := regexp.MustCompile(`cl1\S+`).FindString(string(out))
	require.NotEmpty(t, tok)
	return tok
}

// newEnv is a command without a process of its own.
func newEnv() (e *env, stdout, stderr *bytes.Buffer) {
	stdout, stderr = &bytes.Buffer{}, &bytes.Buffer{}
	return &env{ctx: context.Background(), policies: policy.All(), stdin: strings.NewReader(""), stdout: stdout, stderr: stderr}, stdout, stderr
}

// The progress line is rewritten in place, never wider than a terminal, and gone at the end.
func TestProgress(t *testing.T) {
	e, _, stderr := newEnv()
	e.tty = true
	p := newProgress(e)
	p.show("too early", 0.5)
	assert.Empty(t, stderr.String())
	p.start = p.start.Add(-time.Minute)
	p.show(strings.Repeat("long ", 40), 0.5)
	assert.Regexp(t, `^\r 50% long long`, stderr.String())
	assert.LessOrEqual(t, len(strings.TrimPrefix(stderr.String(), "\r")), progressWidth)
	p.clear()
	assert.True(t, strings.HasSuffix(stderr.String(), " \r"))
	stderr.Reset()
	p.last = p.start
	p.show("a search without a bound", -1)
	assert.Regexp(t, `^\ra search without a bound *$`, stderr.String(), "no per cent, no time left")

	e.tty = true
	p = newProgress(e)
	p.start = p.start.Add(-3 * time.Second)
	p.estimate("read_fork: 1390494 schedules, 3228 a second, and what has no room", 0.5)
	assert.Contains(t, stderr.String(), "\restimate: 50.0 % done, 3s left; read_fork: 1390494 schedules, 3228 a second")
	p.last = time.Time{}
	p.estimate("read_fork: 2 schedules", 0.001)
	assert.Contains(t, stderr.String(), "\restimate: 0.1 % done; read_fork: 2 schedules ", "nothing is said of the time so soon")
	stderr.Reset()
	e.tty = false
	stderr.Reset()
	q := newProgress(e)
	q.start = q.start.Add(-time.Minute)
	q.show("to a file", 0.5)
	q.clear()
	assert.Empty(t, stderr.String(), "progress is for terminals")
}

// Help of every verb says how the verb is used, on stdout, and every verb has a
// line in the general help.
func TestHelp(t *testing.T) {
	e, general, _ := newEnv()
	require.Equal(t, exitOK, run(e, []string{"-h"}))
	for _, v := range verbs() {
		assert.Contains(t, general.String(), v.name+" ")
		for _, ask := range [][]string{{v.name, "-h"}, {v.name, "--help"}, {"help", v.name}} {
			e, stdout, stderr := newEnv()
			assert.Equal(t, exitOK, run(e, ask))
			assert.True(t, strings.HasPrefix(stdout.String(), "Usage: cowlab "+v.name), "%v: %s", ask, stdout)
			assert.Empty(t, stderr.String())
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"stock", "pg_gup", "pg_dontcow", "directio_sem"}
	for in, want := range map[string]string{
		"stok": "stock", "pggup": "pg_gup", "PG_GUP": "pg_gup", "direct": "directio_sem", "dontcow": "pg_dontcow",
		"x": "", "": "", "quite-something-else": "",
	} {
		assert.Equal(t, want, nearest(in, names), in)
	}
	assert.Equal(t, 1, distance("ab", "ba"), "a transposition is one mistake")
}

// Two policies of one name, or one whose name cannot stand in a token, are refused.
func TestPolicyNames(t *testing.T) {
	e, _, stderr := newEnv()
	e.policies = append(e.policies, policy.Stock{})
	assert.Equal(t, exitUsage, run(e, []string{"list"}))
	assert.Contains(t, stderr.String(), `two policies are named "stock"`)
}

// The scripts must not be forgotten by a change of directory.
func TestThereAreScripts(t *testing.T) {
	found, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	assert.GreaterOrEqual(t, len(found), 6)
}
