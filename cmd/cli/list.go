package cli

import (
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/claims"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/workload"
)

func runList(e *env, args []string) error {
	fs := newFlags(e, "list", "", "List the policies and the workloads. Scenarios are listed by cowlab litmus -list.")
	if _, err := parse(fs, args, 0); err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "POLICY\tROW\tWHO\tWHAT")
	for _, p := range e.policies {
		row, title, who := "-", "-", "-"
		if a := p.About(); a.Title != "" {
			title, who = a.Title, a.Who
			if a.Row >= 0 {
				row = fmt.Sprint(a.Row)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name(), row, who, title)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout)
	fmt.Fprintln(w, "WORKLOAD\tLINES\tWHAT")
	for _, wl := range workload.All() {
		fmt.Fprintf(w, "%s\t%s\t%s\n", wl.Name, wl.Lines, wl.Title)
	}
	return w.Flush()
}

func runExplain(e *env, args []string) error {
	fs := newFlags(e, "explain", "NAME", "Explain a policy, a workload, a scenario or a verdict.")
	pos, err := parse(fs, args, 1)
	if err != nil {
		return err
	}
	if len(pos) == 0 {
		return usagef("explain wants a name; cowlab list shows them")
	}
	name := pos[0]
	for _, p := range e.policies {
		if p.Name() == name {
			explainPolicy(e, p)
			return nil
		}
	}
	if w := workload.Lookup(name); w != nil {
		explainWorkload(e, w)
		return nil
	}
	if text, ok := verdictHelp[workload.Verdict(name)]; ok {
		fmt.Fprintf(e.stdout, "%s (a verdict)\n\n%s\n", name, wrapped(sentence(text), "  "))
		return nil
	}
	if slices.Contains(scenarios.Names(), name) {
		return explainScenario(e, name)
	}
	if slices.ContainsFunc(claims.All(), func(c claims.Claim) bool { return c.ID == name }) {
		return usagef("%s is a claim: cowlab claims %s settles it, with -list it is only told", name, name)
	}
	names := append(policyNames(e.policies), workloadNames()...)
	names = append(names, scenarios.Names()...)
	for _, v := range workload.Verdicts() {
		names = append(names, string(v))
	}
	return usagef("nothing is called %q%s; cowlab list and cowlab litmus -list show the names", name, didYouMean(name, names))
}

var verdictHelp = map[workload.Verdict]string{
	workload.Safe:         "nothing wrong was seen; the bound says how far was searched",
	workload.LostRead:     "a read from disk did not arrive in the memory of the process that asked for it",
	workload.ChildChanged: "the child's memory changed after fork other than by its own stores",
	workload.LeakToDisk:   "another process's later stores reached a file that it never wrote to",
	workload.LeakToChild:  "a reference taken for reading disclosed another process's later stores",
	workload.TornSnapshot: "the child's page is not one instant of the parent's page",
	workload.WrongCopy:    "a pin lost its page though nobody shares the page",
	workload.Livelock:     "steps were made without end and without progress",
	workload.Deadlock:     "tasks are left, but nothing can ever happen again",
	workload.Leak:         "references, map counts, swap entries or frames were left behind",
	workload.Bug:          "an assertion of the patch or of the kernel fired",
	workload.OOM:          "emulated memory ran out and a process was killed",
	workload.Refused:      "the policy turned down a request that stock serves: the program does not work",
	workload.NotCovered:   "the policy does not promise what was broken",
}

func explainPolicy(e *env, p mm.Policy) {
	fmt.Fprintf(e.stdout, "%s (a policy)\n", p.Name())
	a := p.About()
	if a.Title == "" {
		fmt.Fprintf(e.stdout, "\n  It does not say more about itself (it has no method About).\n\nWhat it promises: %s\n", promises(p.Claims()))
		return
	}
	row := "no row"
	if a.Row >= 0 {
		row = fmt.Sprintf("row %d", a.Row)
	}
	fmt.Fprintf(e.stdout, "\n%s\n  %s; %s, %s; thread lines %s\n\nWhat it changes\n", wrapped(sentence(a.Title), "  "), row, a.Who, a.When, a.Lines)
	for _, c := range a.Changes {
		fmt.Fprintf(e.stdout, "  - %s\n", strings.TrimSpace(wrapped(c, "    ")))
	}
	fmt.Fprintf(e.stdout, "\nWhat it claims\n%s\n", wrapped(sentence(a.Claims), "  "))
	fmt.Fprintln(e.stdout, wrapped("(the matrix holds it to: "+promises(p.Claims())+")", "  "))
	fmt.Fprintf(e.stdout, "\nWhat it leaves open\n%s\n", wrapped(sentence(a.Open), "  "))
}

// guarantees are the promises of policies in words.
var guarantees = []struct {
	bit  mm.Guarantee
	word string
}{
	{mm.Forward, "forward race"}, {mm.Reverse, "reverse race"}, {mm.AIO, "asynchronous I/O"}, {mm.Disclosure, "disclosure"},
	{mm.OtherPins, "pins of others than direct I/O"}, {mm.Hugetlb, "hugetlb pages"}, {mm.UnderSwap, "under swap"},
	{mm.Snapshot, "copies that are one instant"},
}

// promises lists guarantees; without a list, nothing.
func promises(g mm.Guarantee) string {
	var words []string
	for _, x := range guarantees {
		if g&x.bit != 0 {
			words = append(words, x.word)
		}
	}
	if words == nil {
		return "nothing"
	}
	return list(words)
}

func explainWorkload(e *env, w *workload.Workload) {
	fmt.Fprintf(e.stdout, "%s (a workload, %s)\n\n%s\n  thread lines %s\n", w.Name, w.Group, wrapped(sentence(w.Title), "  "), w.Lines)
	var able []string
	for _, p := range e.policies {
		if w.Promised(p, w.Values(true)) {
			able = append(able, p.Name())
		}
	}
	fmt.Fprintf(e.stdout, "  it needs: %s\n", promises(w.Requires(w.Values(true))))
	if able != nil {
		fmt.Fprintln(e.stdout, wrapped("promised by "+list(able), "  "))
	}
	fmt.Fprintln(e.stdout, "\nParameters")
	tw := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "  NAME\tDEFAULT\tSMALL FORM\t")
	for _, p := range w.Params {
		fmt.Fprintf(tw, "  -%s\t%d\t%d\t%s\n", p.Name, p.Default, p.Small, p.Usage)
	}
	_ = tw.Flush()
	var vs []string
	for _, v := range w.Variants {
		if v == "" {
			v = "its defaults"
		}
		vs = append(vs, v)
	}
	if len(vs) > 0 {
		fmt.Fprintf(e.stdout, "\nThe matrix runs it with %s.\n", strings.Join(vs, ", and with "))
	}
}

// explainScenario prints a scenario's story, question and what is known of the answer.
func explainScenario(e *env, name string) error {
	s, err := scenarios.Lookup(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stdout, "%s (a scenario)\n\n%s\n\n%s\n\n", name, wrapped(s.Doc, "  "), wrapped(s.Story, "  "))
	fmt.Fprintf(e.stdout, "It asks: %s %s\n", s.Cond.Quant, s.Cond)
	for _, x := range s.Expects {
		also := ""
		for _, a := range x.Also {
			also += ", " + a.Text
		}
		fmt.Fprintf(e.stdout, "  - under %s: %s%s\n", x.Policy.Text, x.Quant, also)
	}
	fmt.Fprintf(e.stdout, "\ncowlab litmus %s runs it, with -print it prints it.\n", name)
	return nil
}

// list joins words with commas.
func list(words []string) string { return strings.Join(words, ", ") }

// sentence makes a phrase one. An identifier at its beginning stays as it is.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	first, _, _ := strings.Cut(s, " ")
	if s == "" || strings.ContainsAny(first, "_-.") {
		return s
	}
	r, n := utf8.DecodeRuneInString(s)
	s = string(unicode.ToUpper(r)) + s[n:]
	return strings.TrimSuffix(s, ".") + "."
}

// wrapped breaks text into indented lines of at most 80 columns.
func wrapped(text, indent string) string {
	const width = 80
	var lines []string
	line := indent
	for _, word := range strings.Fields(text) {
		if len(line) > len(indent) && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}

func runVersion(e *env, args []string) error {
	fs := newFlags(e, "version", "", "Print the version.")
	if _, err := parse(fs, args, 0); err != nil {
		return err
	}
	version, goVersion := "(devel)", ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		if bi.Main.Version != "" {
			version = bi.Main.Version
		}
		goVersion = bi.GoVersion
		for _, x := range bi.Settings {
			if x.Key == "vcs.revision" && version == "(devel)" {
				version = x.Value[:min(12, len(x.Value))]
			}
		}
	}
	fmt.Fprintf(e.stdout, "cowlab %s %s\n", version, goVersion)
	return nil
}
