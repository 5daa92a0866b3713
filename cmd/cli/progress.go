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
	if !p.due() {
		return
	}
	if done >= 0 {
		what = fmt.Sprintf("%3.0f%% %s", 100*done, what)
	}
	if left, ok := p.left(done); ok {
		what += fmt.Sprintf(", about %s left", left)
	}
	p.print(what)
}

// estimate is show where how far the whole is, is itself an estimate, and the line says so: at
// its beginning, because a line that is too long loses its end.
func (p *progress) estimate(what string, done float64) {
	if !p.due() {
		return
	}
	line := fmt.Sprintf("estimate: %.1f %% done", 100*done)
	if left, ok := p.left(done); ok {
		line += fmt.Sprintf(", %s left", left)
	}
	p.print(line + "; " + what)
}

// due reports whether the line should be written now.
func (p *progress) due() bool {
	now := time.Now()
	if !p.e.tty || now.Sub(p.start) < progressAfter && p.e.caught == nil || now.Sub(p.last) < progressEvery {
		return false
	}
	p.last = now
	return true
}

// left is the time to the end, if as much has been done as lets one tell.
func (p *progress) left(done float64) (left time.Duration, ok bool) {
	if done <= 0.02 || done >= 1 {
		return 0, false
	}
	left = time.Duration(float64(time.Since(p.start)) * (1 - done) / done)
	return left.Round(time.Second), true
}

func (p *progress) print(line string) {
	line = line[:min(len(line), progressWidth)]
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
