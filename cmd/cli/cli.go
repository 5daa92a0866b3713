package cli

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/workload"
)

// The exit codes.
const (
	exitOK     = 0
	exitDiffer = 1
	exitUsage  = 2
	exitFailed = 3
	exitStuck  = 4 // a policy loops or blocks in Go
)

// env is what a verb has of its surroundings.
type env struct {
	ctx      context.Context
	policies []mm.Policy
	stdin    io.Reader
	stdout   io.Writer
	stderr   io.Writer
	tty      bool // stderr is a terminal: progress may be shown
	ttyIn    bool // stdin is a terminal: commands get a prompt

	// caught, if not nil, is called when an interrupt is no longer the end of the process, and
	// progress is shown from then on, however soon: for tests that interrupt.
	caught func()
}

// verb is one of the command's verbs.
type verb struct {
	name, args, short string
	run               func(e *env, args []string) error
}

func verbs() []verb {
	return []verb{
		{"matrix", "[flags]", "run every policy on every workload and print the verdicts (the default)", runMatrix},
		{"cow", "[flags]", "run other people's test cases under every policy, on several kinds of page", runCow},
		{"run", "WORKLOAD [flags]", "run one workload under one policy, once or many times, and say what happened", runRun},
		{"litmus", "FILE|NAME... [flags]", "run scenario files, and print the states they end in as litmus tests do", runLitmus},
		{"list", "", "list the policies and the workloads", runList},
		{"explain", "NAME", "explain a policy, a workload, a scenario or a verdict", runExplain},
		{"explore", "WORKLOAD [flags]", "search the schedules of one workload, exhaustively if that is possible", runExplore},
		{"replay", "TOKEN|FILE [flags]", "replay a schedule exactly, and draw it", runReplay},
		{"why", "WORKLOAD -policy P", "say why a workload is safe under a policy: the nearest miss, and what closed it", runWhy},
		{"step", "TOKEN|FILE", "step through a schedule in a terminal, and look at the memory at each step", runStep},
		{"claims", "[flags] [ID...]", "settle the disputes of the thread by experiment", runClaims},
		{"speed", "[flags]", "measure the host kernel, the memory system and the emulator side by side", runSpeed},
		{"version", "", "print the version", runVersion},
	}
}

// errUsage is an error of the command line; its text has been chosen for people.
type errUsage struct{ msg string }

func (e errUsage) Error() string { return e.msg }

func usagef(format string, args ...any) error { return errUsage{fmt.Sprintf(format, args...)} }

// errDiffer says that a result is not the expected one.
var errDiffer = errors.New("differs from what was expected")

// Main runs the command with os.Args and the given policies and returns its exit code.
func Main(policies []mm.Policy) int {
	return process(&env{
		policies: policies, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
		tty: terminal(os.Stderr), ttyIn: terminal(os.Stdin),
	})
}

// process is run until an interrupt, or the SIGTERM of timeout(1) and its like, with os.Args.
func process(e *env) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // whoever interrupts twice does not want to wait
	e.ctx = ctx
	if e.caught != nil {
		e.caught()
	}
	return run(e, os.Args[1:])
}

// terminal reports whether a file is a terminal, or at least a device like one.
func terminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

// run dispatches to a verb and turns its error into an exit code.
func run(e *env, args []string) int {
	out := &checkedWriter{w: e.stdout}
	e.stdout = out
	err := dispatch(e, args)
	if err == nil {
		err = out.err
	}
	return e.exit(err)
}

// exit tells an error and returns the exit code.
func (e *env) exit(err error) int {
	var usage errUsage
	var stuck *sched.StuckError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case errors.As(err, &usage):
		fmt.Fprintf(e.stderr, "cowlab: %v\n", err)
		return exitUsage
	case errors.Is(err, errDiffer):
		fmt.Fprintf(e.stderr, "cowlab: %v\n", err)
		return exitDiffer
	case errors.As(err, &stuck):
		fmt.Fprintf(e.stderr, "cowlab: %v\nIt cannot be interrupted, and so this is the end of the command.\n", err)
		return exitStuck
	case errors.Is(err, context.Canceled):
		fmt.Fprintln(e.stderr, "cowlab: interrupted")
		return exitFailed
	}
	fmt.Fprintf(e.stderr, "cowlab: %v\n", err)
	return exitFailed
}

// checkedWriter remembers the first error of a writer: what did not reach a full disk must
// not look like a result.
type checkedWriter struct {
	w   io.Writer
	err error
}

// Write implements io.Writer.
func (c *checkedWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	if c.err == nil {
		c.err = err
	}
	return n, err
}

func dispatch(e *env, args []string) error {
	if err := checkPolicies(e.policies); err != nil {
		return err
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		if len(args) > 0 && (args[0] == "-h" || args[0] == "-help" || args[0] == "--help") {
			help(e.stdout)
			return nil
		}
		if len(args) == 1 && (args[0] == "-version" || args[0] == "--version") {
			return runVersion(e, nil)
		}
		return runMatrix(e, args)
	}
	if args[0] == "help" {
		if len(args) > 1 {
			return dispatch(e, []string{args[1], "-h"})
		}
		help(e.stdout)
		return nil
	}
	var names []string
	for _, v := range verbs() {
		if v.name == args[0] {
			return v.run(e, args[1:])
		}
		names = append(names, v.name)
	}
	return e.unknownVerb(args[0], names)
}

// unknownVerb says what might have been meant: names of other things than verbs are
// often typed alone.
func (e *env) unknownVerb(word string, verbs []string) error {
	hint := didYouMean(word, verbs)
	switch {
	case workload.Lookup(word) != nil:
		hint = fmt.Sprintf(" (did you mean \"cowlab run %s\"?)", word)
	case slices.Contains(scenarios.Names(), word) || strings.HasSuffix(word, scenarios.Suffix):
		hint = fmt.Sprintf(" (did you mean \"cowlab litmus %s\"?)", word)
	case slices.Contains(policyNames(e.policies), word):
		hint = fmt.Sprintf(" (did you mean \"cowlab explain %s\"?)", word)
	case strings.HasPrefix(word, "cl1."):
		hint = " (did you mean \"cowlab replay TOKEN\"?)"
	}
	return usagef("unknown verb %q%s; cowlab -h lists them", word, hint)
}

func checkPolicies(policies []mm.Policy) error {
	seen := map[string]bool{}
	for _, p := range policies {
		n := p.Name()
		if n == "" || strings.ContainsAny(n, " ,./=") {
			return usagef("policy name %q must not be empty or hold spaces, commas, dots, slashes or equal signs", n)
		}
		if seen[n] {
			return usagef("two policies are named %q; a policy that embeds another needs a Name of its own", n)
		}
		seen[n] = true
	}
	return nil
}

func help(w io.Writer) {
	fmt.Fprint(w, `cowlab runs every fix for "fork against get_user_pages" on an emulated Linux VM.

Usage: cowlab [VERB] [arguments]

`)
	for _, v := range verbs() {
		fmt.Fprintf(w, "  %-26s %s\n", strings.TrimSpace(v.name+" "+v.args), v.short)
	}
	fmt.Fprint(w, `
cowlab VERB -h explains a verb's flags.

A first look:
  cowlab                              the table; a minute
  cowlab run dma_thread               the bug, at full speed
  cowlab replay TOKEN -min            the bug, step by step; the table has tokens
  cowlab matrix -policies pg_gup -workloads forkscrew -schedules 20000
                                      search harder for a counterexample

Exit codes: 0 it ran, 1 the result differs from what was expected, 2 bad usage,
3 it could not run or was interrupted, 4 a policy loops or blocks in Go.
`)
}
