package explore

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Stepper walks through a story by commands, as a debugger does: it knows the state
// before the first step and after each, and goes forwards and backwards alike.
type Stepper struct {
	story *Story
	at    int // steps made, 0 is before the first
	last  string
}

// NewStepper returns a stepper before the first step of the story.
func NewStepper(s *Story) *Stepper {
	s.fillText()
	return &Stepper{story: s}
}

// At returns the number of the step that was made last, 0 before the first.
func (p *Stepper) At() int { return p.at }

// stepCommand is a command of the stepper.
type stepCommand struct {
	names string // separated by blanks
	args  string
	help  string
	run   func(p *Stepper, w io.Writer, arg string) error
}

// stepCommands are the commands beside those of the panels.
func stepCommands() []stepCommand {
	return []stepCommand{
		{"n next", "[COUNT]", "make the next step", func(p *Stepper, w io.Writer, arg string) error {
			return p.repeat(w, arg, func(at int) int { return at + 1 })
		}},
		{"p prev", "[COUNT]", "take the last step back", func(p *Stepper, w io.Writer, arg string) error {
			return p.repeat(w, arg, func(at int) int { return at - 1 })
		}},
		{"N", "[COUNT]", "go to the next step that the diagram shows", func(p *Stepper, w io.Writer, arg string) error {
			return p.repeat(w, arg, func(at int) int { return p.find(at, 1, (*Step).shown) })
		}},
		{"P", "[COUNT]", "go to the previous one", func(p *Stepper, w io.Writer, arg string) error {
			return p.repeat(w, arg, func(at int) int { return p.find(at, -1, (*Step).shown) })
		}},
		{"s switch", "[COUNT]", "go to where another CPU or a device acts", func(p *Stepper, w io.Writer, arg string) error {
			return p.repeat(w, arg, func(at int) int {
				return p.find(at, 1, func(s *Step) bool { return s.N > 1 && p.story.Steps[s.N-2].CPU != s.CPU })
			})
		}},
		{"goto", "STEP", "go to a step by its number, 0 is before the first", (*Stepper).doGoto},
		{"find", "TEXT", "go to the next step whose line has the text", (*Stepper).doFind},
		{"w where", "", "the step, its function and the callers", func(p *Stepper, w io.Writer, _ string) error {
			p.where(w)
			return nil
		}},
		{"l list", "", "the steps around this one", func(p *Stepper, w io.Writer, _ string) error {
			for i := max(0, p.at-6); i < min(len(p.story.Steps), p.at+5); i++ {
				p.line(w, i+1)
			}
			return nil
		}},
		{"diff", "[STEP]", "what the last step changed, or all since another step", (*Stepper).doDiff},
	}
}

func (s *Step) shown() bool { return s.Shown }

// Do carries out one command line and reports whether it was the one to quit. An empty
// line repeats the last command.
func (p *Stepper) Do(w io.Writer, line string) (quit bool) {
	line = strings.TrimSpace(line)
	if line == "" {
		line = p.last
	}
	p.last = line
	name, arg, _ := strings.Cut(line, " ")
	arg = strings.TrimSpace(arg)
	switch name {
	case "":
		return false
	case "q", "quit", "exit":
		return true
	case "h", "help", "?":
		p.help(w)
		return false
	}
	for _, c := range stepCommands() {
		if slices.Contains(strings.Fields(c.names), name) {
			if err := c.run(p, w, arg); err != nil {
				fmt.Fprintf(w, "%s: %v\n", name, err)
			}
			return false
		}
	}
	if i := p.story.PanelIndex(name); i >= 0 {
		p.panel(w, i, arg)
		return false
	}
	fmt.Fprintf(w, "unknown command %q; help lists them\n", name)
	return false
}

func (p *Stepper) help(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range stepCommands() {
		fmt.Fprintf(t, "%s %s\t%s\n", strings.ReplaceAll(c.names, " ", ", "), c.args, c.help)
	}
	for _, pn := range p.story.Panels {
		fmt.Fprintf(t, "%s [TEXT]\t%s as they are now; with TEXT, rows that have it\n", pn.ID, pn.Title)
	}
	fmt.Fprintf(t, "help, q\tthis list; end\n")
	t.Flush()
	fmt.Fprintln(w, "An empty line repeats the last command. In tables, '*' marks rows that the last step changed.")
}

// repeat moves so often.
func (p *Stepper) repeat(w io.Writer, arg string, next func(at int) int) error {
	n := 1
	if arg != "" {
		var err error
		if n, err = strconv.Atoi(arg); err != nil || n < 1 {
			return fmt.Errorf("%s is no number of steps", quoted(arg))
		}
	}
	for range n {
		to := next(p.at)
		if to < 0 || to > len(p.story.Steps) {
			end := "last"
			if to < 0 {
				end = "first"
			}
			fmt.Fprintf(w, "there is none: the %s step is made or taken back\n", end)
			break
		}
		p.at = to
	}
	p.line(w, p.at)
	return nil
}

// find returns the next step, in a direction, for which ok holds; beyond the end or
// the beginning if there is none.
func (p *Stepper) find(at, by int, ok func(*Step) bool) int {
	for at += by; at >= 1 && at <= len(p.story.Steps); at += by {
		if ok(&p.story.Steps[at-1]) {
			return at
		}
	}
	if by > 0 {
		return len(p.story.Steps) + 1
	}
	return -1
}

func (p *Stepper) doGoto(w io.Writer, arg string) error {
	n, err := strconv.Atoi(arg)
	if err != nil || n < 0 || n > len(p.story.Steps) {
		return fmt.Errorf("%s is no step; there are 0 to %d", quoted(arg), len(p.story.Steps))
	}
	p.at = n
	p.line(w, p.at)
	return nil
}

func (p *Stepper) doFind(w io.Writer, arg string) error {
	if arg == "" {
		return fmt.Errorf("what?")
	}
	to := p.find(p.at, 1, func(s *Step) bool { return strings.Contains(s.Func+": "+s.Text+" "+s.Task, arg) })
	if to > len(p.story.Steps) {
		return fmt.Errorf("no step behind this one has %s", quoted(arg))
	}
	p.at = to
	p.line(w, p.at)
	return nil
}

// line prints a step in a line.
func (p *Stepper) line(w io.Writer, n int) {
	if n == 0 {
		fmt.Fprintln(w, "before the first step")
		return
	}
	s := &p.story.Steps[n-1]
	lane := fmt.Sprintf("CPU %d %s", s.CPU, s.Task)
	if s.CPU == DeviceLane {
		lane = "device"
	}
	fn := s.Func
	if s.IRQ {
		fn = "<IRQ> " + fn
	}
	mark := " "
	switch {
	case n == p.at:
		mark = ">"
	case s.Preempts:
		mark = "*"
	}
	fmt.Fprintf(w, "%s%5d  %-16s %s: %s\n", mark, s.N, lane, fn, s.Text)
}

func (p *Stepper) where(w io.Writer) {
	p.line(w, p.at)
	if p.at == 0 {
		return
	}
	s := &p.story.Steps[p.at-1]
	for _, f := range s.Stack {
		fmt.Fprintf(w, "         %s\n", f)
	}
	if s.Hook != "" {
		fmt.Fprintf(w, "         in the policy's %s\n", s.Hook)
	}
}

// panel prints a panel's rows, those that hold the text if there is one.
func (p *Stepper) panel(w io.Writer, i int, text string) {
	pn := &p.story.Panels[i]
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "  %s\n", strings.Join(pn.Columns, "\t"))
	n := 0
	for _, r := range p.story.Rows(i, p.at) {
		if r.Cells == nil || !strings.Contains(strings.Join(r.Cells, " "), text) {
			continue
		}
		n++
		mark := " "
		if r.Changed() && p.at > 0 {
			mark = "*"
		}
		fmt.Fprintf(t, "%s %s\n", mark, strings.Join(r.Cells, "\t"))
	}
	if n == 0 {
		fmt.Fprintln(w, "  nothing")
		return
	}
	t.Flush()
}

func (p *Stepper) doDiff(w io.Writer, arg string) error {
	from := max(p.at-1, 0)
	if arg != "" {
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 || n > len(p.story.Steps) {
			return fmt.Errorf("%s is no step; there are 0 to %d", quoted(arg), len(p.story.Steps))
		}
		from = n
	}
	lines := 0
	for i := range p.story.Panels {
		for _, r := range p.story.diff(i, from, p.at) {
			fmt.Fprintf(w, "  %s\n", p.story.Panels[i].ChangeText(&r))
			lines++
		}
	}
	if lines == 0 {
		fmt.Fprintln(w, "  nothing")
	}
	return nil
}

// diff returns the rows of a panel that differ between the states after two steps.
func (s *Story) diff(panel, from, to int) []Row {
	cells := func(n int) map[Key][]string {
		m := map[Key][]string{}
		for _, r := range s.Rows(panel, n) {
			if r.Cells != nil {
				m[r.Key] = r.Cells
			}
		}
		return m
	}
	was, now := cells(from), cells(to)
	var out []Row
	for k, c := range now {
		if !slices.Equal(c, was[k]) {
			out = append(out, Row{Key: k, Cells: c, Was: was[k]})
		}
	}
	for k, c := range was {
		if now[k] == nil {
			out = append(out, Row{Key: k, Was: c})
		}
	}
	slices.SortFunc(out, func(a, b Row) int { return a.Key.compare(b.Key) })
	return out
}
