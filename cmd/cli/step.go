package cli

import (
	"bufio"
	"fmt"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/tests/matrix"
)

func runStep(e *env, args []string) error {
	fs := newFlags(e, "step", "TOKEN|FILE", `Step through a schedule in a terminal, forwards and backwards: what each step does,
page tables, struct pages, TLBs, bytes, locks and pending events after it.

Commands are read from standard input, one on a line; "help" lists them. A script can be
piped in.`,
		"cowlab step TOKEN",
		"printf 'find policy0\\npage\\ndiff\\n' | cowlab step failure.zip")
	minimise := fs.Bool("min", false, "first minimise the schedule to its fewest context switches")
	pos, err := parse(fs, args, 1)
	if err != nil {
		return err
	}
	if len(pos) == 0 {
		return usagef("step wants a token, as matrix prints them, or a file of switches, or a bundle")
	}
	s, err := e.openSchedule(pos[0], "", 0)
	if err != nil {
		return err
	}
	defer s.close()
	if *minimise {
		if err := e.minimise(s); err != nil {
			return err
		}
	}
	for _, n := range s.notes {
		fmt.Fprintln(e.stdout, n)
	}
	story := matrix.Tell(s.target, s.tok.Spec)
	fmt.Fprintf(e.stdout, "%s under %s: %s, %d steps\n", s.title, s.policy.Name(), story.Verdict, len(story.Steps))
	if story.Legend != "" {
		fmt.Fprintln(e.stdout, story.Legend)
	}
	p := explore.NewStepper(story.Story)
	lines := bufio.NewScanner(e.stdin)
	more, ask := make(chan bool), make(chan struct{})
	go func() { // so that an interrupt ends the wait for a line; the process then ends
		for range ask {
			more <- lines.Scan()
		}
	}()
	defer close(ask)
	for quit := false; !quit; {
		if e.ttyIn {
			fmt.Fprintf(e.stdout, "step %d (help) ", p.At())
		}
		ask <- struct{}{}
		select {
		case ok := <-more:
			if !ok && e.ttyIn {
				fmt.Fprintln(e.stdout) // the prompt's line
			}
			quit = !ok || p.Do(e.stdout, lines.Text())
		case <-e.ctx.Done():
			return e.ctx.Err()
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	return s.differs
}
