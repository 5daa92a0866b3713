package conformance

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/workload"
)

// All returns every case that runs on a kind of page there is, in the order of the table.
func All() []*Case {
	all := slices.Concat(Cow(), CowFile(), Longterm(), DirectIO(), Pins(), Reproducers())
	return slices.DeleteFunc(all, func(c *Case) bool { return !slices.ContainsFunc(Kinds(), c.RunsOn) })
}

// Match returns the cases whose name, or what stands before its colon, matches a pattern
// in which * stands for anything and ? for one character, without regard to case.
func Match(cases []*Case, glob string) []*Case {
	p := regexp.QuoteMeta(glob)
	p = strings.ReplaceAll(strings.ReplaceAll(p, `\*`, `.*`), `\?`, `.`)
	re := regexp.MustCompile(`(?is)^(?:` + p + `)$`)
	var out []*Case
	for _, c := range cases {
		id, _, _ := strings.Cut(c.Name, ":")
		if re.MatchString(c.Name) || re.MatchString(id) {
			out = append(out, c)
		}
	}
	return out
}

// pages is how a cell names its kind of page, as a workload's cell names its parameters.
const pages = "pages="

// bound is what a cell's verdict rests on.
const bound = "one run in the timed regime"

// Options say what to run.
type Options struct {
	Policies []mm.Policy
	Cases    []*Case
	Kinds    []*Kind
	// Progress, if not nil, is told what is being done, and how far it is (0 to 1).
	Progress func(what string, done float64)
}

// timed is the machine that cells come from.
func timed(p mm.Policy, h *kernel.Hosts) kernel.Options {
	return kernel.Options{CPUs: 2, Regime: sched.Timed, Policy: p, Hosts: h, CheckLocks: true}
}

// Run runs every case on every kind of page that it is for, under every policy: the table
// has a cell for each, the case standing where a workload stands in the matrix. When ctx ends,
// it returns what was found so far with ctx's error.
func Run(ctx context.Context, o Options) (*matrix.Table, error) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	t := &matrix.Table{Cells: []matrix.Cell{}}
	for i, c := range o.Cases {
		for j, p := range o.Policies {
			if o.Progress != nil {
				o.Progress(fmt.Sprintf("%s on %s", p.Name(), c.Name), (float64(i)+float64(j)/float64(len(o.Policies)))/float64(len(o.Cases)))
			}
			for _, k := range o.Kinds {
				if !c.RunsOn(k) {
					continue
				}
				if ctx.Err() != nil {
					return t, ctx.Err()
				}
				r, err := Execute(ctx, c, k, timed(p, hosts))
				if ctx.Err() != nil {
					return t, ctx.Err()
				}
				if err != nil {
					return t, fmt.Errorf("%s on %s, %s pages: %w", p.Name(), c.Name, k.Name, err)
				}
				t.Cells = append(t.Cells, cell(p, c, k, r))
			}
		}
	}
	return t, nil
}

func cell(p mm.Policy, c *Case, k *Kind, r Result) matrix.Cell {
	return matrix.Cell{
		Policy: p.Name(), Workload: c.Name, Params: pages + k.Name, Verdict: r.Verdict, Also: []workload.Verdict{},
		Bound: bound, Detail: r.Detail, Why: why(p, c, k, r),
	}
}

// why is the step of 2.6.29 that makes a cell of stock fail, empty for other cells.
func why(p mm.Policy, c *Case, k *Kind, r Result) string {
	if p.Name() != "stock" || r.Verdict == Pass {
		return ""
	}
	_, step, _ := strings.Cut(c.Expect(k.Name), ": ")
	return step
}

// ReadJSON reads a stored table.
func ReadJSON(r io.Reader) (*matrix.Table, error) { return matrix.ReadVerdicts(r, Verdicts()) }

// Differences compares the verdicts of a table with expected ones. What was expected of kinds
// of page that were not run is no difference.
func Differences(t, want *matrix.Table, kinds []*Kind) []string {
	ran := &matrix.Table{}
	for _, c := range want.Cells {
		if slices.ContainsFunc(kinds, func(k *Kind) bool { return c.Params == pages+k.Name }) {
			ran.Cells = append(ran.Cells, c)
		}
	}
	return t.Differences(ran)
}

// names lists what a field of the cells takes, in order.
func names(cells []matrix.Cell, field func(c *matrix.Cell) string) (out []string) {
	for i := range cells {
		if s := field(&cells[i]); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

func policyOf(c *matrix.Cell) string { return c.Policy }
func caseOf(c *matrix.Cell) string   { return c.Workload }
func kindOf(c *matrix.Cell) string   { return strings.TrimPrefix(c.Params, pages) }

// WriteText writes, for each case, a line of verdicts by kind of page for the policies that
// show the same, with the evidence below it, and at the end how many cases each policy
// passes. With explain set the step of 2.6.29 that makes it fail stands beside each case.
func WriteText(w io.Writer, t *matrix.Table, explain bool) error {
	var b strings.Builder
	for rest := t.Cells; len(rest) > 0; {
		n := slices.IndexFunc(rest, func(c matrix.Cell) bool { return c.Workload != rest[0].Workload })
		if n < 0 {
			n = len(rest)
		}
		writeCase(&b, rest[:n], explain)
		rest = rest[n:]
	}
	if len(t.Cells) > 0 {
		tw := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
		for _, line := range summary(t) {
			fmt.Fprintln(tw, strings.Join(line, "\t"))
		}
		_ = tw.Flush() // a Builder takes everything
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// like is policies whose verdicts on a case are the same.
type like struct {
	verdicts, policies []string
	cells              []matrix.Cell
}

// alike groups the cells of a case.
func alike(cells []matrix.Cell) (out []*like) {
	for _, p := range names(cells, policyOf) {
		l := &like{policies: []string{p}}
		for _, c := range cells {
			if c.Policy == p {
				l.cells = append(l.cells, c)
				l.verdicts = append(l.verdicts, string(c.Verdict))
			}
		}
		if i := slices.IndexFunc(out, func(o *like) bool { return slices.Equal(o.verdicts, l.verdicts) }); i >= 0 {
			out[i].policies = append(out[i].policies, p)
			out[i].cells = append(out[i].cells, l.cells...)
		} else {
			out = append(out, l)
		}
	}
	return out
}

// width is where lines of policies are broken.
const width = 100

func writeCase(b *strings.Builder, cells []matrix.Cell, explain bool) {
	kinds := names(cells, kindOf)
	fmt.Fprintf(b, "%s\n    ", cells[0].Workload)
	for _, k := range kinds {
		fmt.Fprintf(b, "%-*s", column(k), k)
	}
	b.WriteString("policy\n")
	for _, l := range alike(cells) {
		b.WriteString("    ")
		at := 4
		for i, v := range l.verdicts {
			fmt.Fprintf(b, "%-*s", column(kinds[i]), v)
			at += column(kinds[i])
		}
		writeWords(b, strings.Split(strings.Join(l.policies, ", "), " "), at)
		writeEvidence(b, l, at+2)
	}
	if explain {
		writeWhy(b, cells[0].Workload, kinds)
	}
	b.WriteByte('\n')
}

// column is the width of a kind's column.
func column(kind string) int { return max(len(kind), len("livelock")) + 2 }

// writeWords writes words and breaks lines at width; the cursor is at indent.
func writeWords(b *strings.Builder, words []string, indent int) {
	at := indent
	for i, w := range words {
		switch {
		case i > 0 && at+1+len(w) > width:
			fmt.Fprintf(b, "\n%*s", indent, "")
			at = indent
		case i > 0:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(w)
		at += len(w)
	}
	b.WriteByte('\n')
}

// writeEvidence writes what was seen, each thing once, with where it was seen if that is
// not everywhere.
func writeEvidence(b *strings.Builder, l *like, indent int) {
	for _, d := range names(l.cells, func(c *matrix.Cell) string { return c.Detail }) {
		if d == "" {
			continue
		}
		where := slices.DeleteFunc(slices.Clone(l.cells), func(c matrix.Cell) bool { return c.Detail != d })
		kinds := names(where, kindOf)
		ps := names(where, policyOf)
		bad := slices.DeleteFunc(slices.Clone(l.cells), func(c matrix.Cell) bool { return c.Verdict != where[0].Verdict })
		prefix := ""
		if len(ps) < len(l.policies) {
			prefix = strings.Join(ps, ", ")
		}
		if len(kinds) < len(names(bad, kindOf)) {
			prefix += " on " + strings.Join(kinds, ", ")
		}
		if prefix != "" {
			prefix = strings.TrimSpace(prefix) + ": "
		}
		fmt.Fprintf(b, "%*s%s%s\n", indent, "", prefix, d)
	}
}

// writeWhy writes what is said of 2.6.29 on the kinds, each thing once.
func writeWhy(b *strings.Builder, name string, kinds []string) {
	i := slices.IndexFunc(All(), func(c *Case) bool { return c.Name == name })
	if i < 0 {
		return
	}
	c := All()[i]
	on := map[string][]string{}
	var order []string
	for _, k := range kinds {
		_, why, ok := strings.Cut(c.Expect(k), ": ")
		if !ok {
			continue
		}
		if on[why] == nil {
			order = append(order, why)
		}
		on[why] = append(on[why], k)
	}
	for _, why := range order {
		b.WriteString("    ")
		writeWords(b, strings.Fields(fmt.Sprintf("2.6.29, %s: %s", strings.Join(on[why], ", "), why)), 4)
	}
}

// summary is how many of the cases that were run each policy passes, by kind of page.
func summary(t *matrix.Table) (lines [][]string) {
	kinds := names(t.Cells, kindOf)
	lines = append(lines, append([]string{"PASSED"}, kinds...))
	for _, p := range names(t.Cells, policyOf) {
		line := []string{p}
		for _, k := range kinds {
			n, passed := 0, 0
			for i := range t.Cells {
				if c := &t.Cells[i]; c.Policy == p && kindOf(c) == k {
					n++
					if c.Verdict == Pass {
						passed++
					}
				}
			}
			line = append(line, fmt.Sprintf("%d of %d", passed, n))
		}
		lines = append(lines, line)
	}
	return lines
}

// WriteMarkdown writes the summary alone, for a README.
func WriteMarkdown(w io.Writer, t *matrix.Table) error {
	for i, line := range summary(t) {
		if i == 0 {
			line[0] = "passed"
		} else {
			line[0] = "`" + line[0] + "`"
		}
		if _, err := fmt.Fprintf(w, "| %s |\n", strings.Join(line, " | ")); err != nil {
			return err
		}
		if i == 0 {
			if _, err := fmt.Fprintf(w, "|%s\n", strings.Repeat("---|", len(line))); err != nil {
				return err
			}
		}
	}
	return nil
}
