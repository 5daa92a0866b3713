package cli

import (
	"fmt"
	"strings"
	"time"
)

// progress is one line on stderr that is rewritten: only on a terminal, and only once
// something takes longer than two seconds.
type progress struct {
	e     *env
	start time.Time
	last  time.Time
	width int
}

func newProgress(e *env) *progress { return &progress{e: e, start: time.Now()} }

const (
	progressAfter = 2 * time.Second
	progressEvery = 100 * time.Millisecond
	progressWidth = 79 // a line that wraps cannot be rewritten
)

// show says what is being done and how far the whole is, from 0 to 1; less than 0 if nobody knows.
func (p *progress) show(what string, done float64) {
	now := time.Now()
	if !p.e.tty || now.Sub(p.start) < progressAfter || now.Sub(p.last) < progressEvery {
		return
	}
	p.last = now
	line := what
	if done >= 0 {
		line = fmt.Sprintf("%3.0f%% %s", 100*done, what)
	}
	if done > 0.02 && done < 1 {
		left := time.Duration(float64(now.Sub(p.start)) * (1 - done) / done)
		line += fmt.Sprintf(", about %s left", left.Round(time.Second))
	}
	p.print(line[:min(len(line), progressWidth)])
}

func (p *progress) print(line string) {
	pad := max(p.width-len(line), 0)
	fmt.Fprintf(p.e.stderr, "\r%s%s", line, strings.Repeat(" ", pad))
	p.width = len(line)
}

// clear removes the line.
func (p *progress) clear() {
	if p.width > 0 {
		p.print("")
		fmt.Fprint(p.e.stderr, "\r")
		p.width = 0
	}
}
