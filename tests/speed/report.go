package speed

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"text/tabwriter"
)

// Report is the outcome of a measuring run. As JSON it is {"lines":[...]}.
type Report struct {
	Lines []Line `json:"lines"`

	Pairs    int     `json:"-"` // rounds asked for
	Level    float64 `json:"-"` // of the intervals
	Stage    Stage   `json:"-"` // that the lines' Goal and Met speak of
	NoNative string  `json:"-"` // why the native column is empty; "" when it is not
	Host     string  `json:"-"` // system, architecture, CPUs, Go version
}

// Line is one row of the report. As JSON it has op, native_ns, floor_ns,
// emulated_ns, goal and met; the times are medians for each unit, null when
// there is none.
type Line struct {
	Op         string   `json:"op"`
	NativeNS   *float64 `json:"native_ns"`
	FloorNS    *float64 `json:"floor_ns"`
	EmulatedNS *float64 `json:"emulated_ns"`
	Goal       string   `json:"goal"`
	Met        bool     `json:"met"`

	Unit       string    `json:"-"` // what the times are for each of
	Native     *Estimate `json:"-"` // with intervals; nil when there is none
	Floor      *Estimate `json:"-"`
	Emulated   *Estimate `json:"-"`
	OverNative *Estimate `json:"-"` // emulated / native by rounds
	OverFloor  *Estimate `json:"-"` // emulated / floor by rounds
	Foundation Verdict   `json:"-"`
	Final      Verdict   `json:"-"`
	Goals      Goal      `json:"-"`
	Notes      []string  `json:"-"`
}

func newReport(o Options) *Report {
	return &Report{
		Lines:    []Line{},
		Pairs:    o.Pairs,
		Level:    o.Level,
		Stage:    o.Stage,
		NoNative: o.NoNative,
		Host:     fmt.Sprintf("%s/%s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version()),
	}
}

// newLine judges the samples of a row.
func newLine(op Op, s Samples, notes []string, o Options) Line {
	l := Line{Op: op.Name, Unit: op.Unit, Goals: op.Goal, Notes: notes}
	estimate := func(samples []float64) *Estimate {
		e, ok := Median(samples, o.Level)
		if !ok {
			return nil
		}
		return &e
	}
	l.Native, l.Floor, l.Emulated = estimate(s.Native), estimate(s.Floor), estimate(s.Emulated)
	l.NativeNS, l.FloorNS, l.EmulatedNS = nanoseconds(l.Native), nanoseconds(l.Floor), nanoseconds(l.Emulated)
	l.OverNative = estimate(ratios(s.Emulated, s.Native))
	l.OverFloor = estimate(ratios(s.Emulated, s.Floor))
	l.Foundation = op.Goal.Judge(FoundationStage, s, o.Level)
	l.Final = op.Goal.Judge(FinalStage, s, o.Level)
	l.Goal = op.Goal.Text(o.Stage)
	l.Met = l.verdict(o.Stage).Met
	return l
}

func (l Line) verdict(s Stage) Verdict {
	if s == FoundationStage {
		return l.Foundation
	}
	return l.Final
}

// nanoseconds returns an estimate's median as JSON shows it, rounded to a
// thousandth; nil if there is none or it is not a number.
func nanoseconds(e *Estimate) *float64 {
	if e == nil || math.IsNaN(e.Median) || math.IsInf(e.Median, 0) {
		return nil
	}
	v := math.Round(e.Median*1000) / 1000
	return &v
}

// Met reports whether no line misses the goal of the report's stage. A line for which the host
// lacks the other side, a compiler or a free swap area, misses nothing by that, though its
// Line.Met is false; one whose emulated side failed does.
func (r *Report) Met() bool {
	for _, l := range r.Lines {
		if v := l.verdict(r.Stage); v.Missed || !v.Known && l.Emulated == nil {
			return false
		}
	}
	return true
}

// WriteJSON writes the report as indented JSON with a final newline.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// row is one line of both tables.
type row [11]string

func heading() row {
	return row{
		"operation", "unit", "native ns", "floor ns", "emulated ns", "/ native", "/ floor", "foundation", "met", "goal", "met",
	}
}

// cells returns a line as both tables show it.
func (l Line) cells() row {
	return row{
		l.Op, l.Unit, middle(l.Native), middle(l.Floor), middle(l.Emulated),
		interval(l.OverNative), interval(l.OverFloor),
		l.Goals.Text(FoundationStage), l.Foundation.mark(),
		l.Goals.Text(FinalStage), l.Final.mark(),
	}
}

// mark returns "yes", "no", "yes?" or "no?" where the interval reaches across the
// bound, and "-" where it cannot be said.
func (v Verdict) mark() string {
	text := "no"
	if v.Met {
		text = "yes"
	}
	switch {
	case !v.Known:
		return "-"
	case !v.Clear:
		return text + "?"
	}
	return text
}

func middle(e *Estimate) string {
	if e == nil {
		return "-"
	}
	return figure(e.Median)
}

func interval(e *Estimate) string {
	if e == nil {
		return "-"
	}
	return e.String()
}

// WriteText writes the report as an aligned table, with the figures behind the
// verdicts and the notes below it.
func (r *Report) WriteText(w io.Writer) error {
	b := new(strings.Builder)
	fmt.Fprintln(b, r.head())
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	h := heading()
	fmt.Fprintln(tw, strings.Join(h[:], "\t"))
	for _, l := range r.Lines {
		c := l.cells()
		fmt.Fprintln(tw, strings.Join(c[:], "\t"))
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, d := range r.details() {
		fmt.Fprintln(b, d)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteMarkdown writes the report as a table for a page.
func (r *Report) WriteMarkdown(w io.Writer) error {
	b := new(strings.Builder)
	h := heading()
	fmt.Fprintf(b, "%s\n\n| %s |\n|%s\n", r.head(), strings.Join(h[:], " | "), strings.Repeat("---|", len(h)))
	for _, l := range r.Lines {
		c := l.cells()
		for i := range c {
			c[i] = strings.ReplaceAll(c[i], "|", `\|`)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(c[:], " | "))
	}
	details := r.details()
	if len(details) > 0 {
		fmt.Fprintln(b)
	}
	for _, d := range details {
		fmt.Fprintf(b, "- %s\n", d)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// head says what the figures are.
func (r *Report) head() string {
	text := fmt.Sprintf("%s; %d interleaved rounds, medians, ratios by rounds with %.0f %% intervals",
		r.Host, r.Pairs, r.Level*100)
	if r.Pairs < 20 {
		text += " (fewer than 20 rounds: for a quick look only)"
	}
	if r.NoNative != "" {
		text += "; native column empty: " + r.NoNative
	}
	return text
}

// details returns one text for each line that has something to add.
func (r *Report) details() []string {
	var out []string
	for _, l := range r.Lines {
		var parts []string
		if v := l.verdict(r.Stage); l.Emulated != nil || v.Known && v.Text != "" {
			parts = append(parts, v.Text)
		}
		for _, e := range []*Estimate{l.Native, l.Floor, l.Emulated} {
			if e != nil && e.N < r.Pairs {
				parts = append(parts, fmt.Sprintf("only %d rounds, interval worth %.0f %%", e.N, e.Level*100))
				break
			}
		}
		parts = append(parts, l.Notes...)
		if len(parts) > 0 {
			out = append(out, l.Op+": "+strings.Join(parts, "; "))
		}
	}
	return out
}
