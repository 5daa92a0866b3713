package cli

import (
	"fmt"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

func runList(e *env, args []string) error {
	fs := newFlags(e, "list", "", "List the policies and the workloads.")
	if _, err := parse(fs, args, 0); err != nil {
		return err
	}
	w := tabwriter.NewWriter(e.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "POLICY\tROW\tWHAT\tWHO")
	for _, p := range e.policies {
		row, title, who := "-", "-", "-"
		if x, ok := p.(mm.Explainer); ok {
			a := x.About()
			row, title, who = fmt.Sprint(a.Row), a.Title, a.Who
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name(), row, title, who)
	}
	fmt.Fprintln(w, "\t\t\t\nWORKLOAD\t\tWHAT\tTHREAD LINES")
	for _, wl := range workload.All() {
		fmt.Fprintf(w, "%s\t\t%s\t%s\n", wl.Name, wl.Title, wl.Lines)
	}
	return w.Flush()
}

func runExplain(e *env, args []string) error {
	fs := newFlags(e, "explain", "NAME", "Explain a policy, a workload or a verdict.")
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
		fmt.Fprintf(e.stdout, "%s (a verdict)\n\n  %s\n", name, text)
		return nil
	}
	names := append(policyNames(e.policies), workloadNames()...)
	for _, v := range workload.Verdicts() {
		names = append(names, string(v))
	}
	return usagef("nothing is called %q%s; cowlab list shows the names", name, didYouMean(name, names))
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
	workload.NotCovered:   "the policy does not promise what was broken",
}

func explainPolicy(e *env, p mm.Policy) {
	fmt.Fprintf(e.stdout, "%s (a policy)\n", p.Name())
	x, ok := p.(mm.Explainer)
	if !ok {
		fmt.Fprintln(e.stdout, "\n  It does not say more about itself (it has no method About).")
		return
	}
	a := x.About()
	fmt.Fprintf(e.stdout, "\n  %s\n\n  row %d; %s, %s; thread lines %s\n\nWhat it changes\n", a.Title, a.Row, a.Who, a.When, a.Lines)
	for _, c := range a.Changes {
		fmt.Fprintf(e.stdout, "  - %s\n", c)
	}
	fmt.Fprintf(e.stdout, "\nWhat it claims\n  %s\n\nWhat it leaves open\n  %s\n", a.Claims, a.Open)
}

func explainWorkload(e *env, w *workload.Workload) {
	fmt.Fprintf(e.stdout, "%s (a workload, %s)\n\n  %s\n  thread lines %s\n\nParameters (default; small form)\n", w.Name, w.Group, w.Title, w.Lines)
	for _, p := range w.Params {
		fmt.Fprintf(e.stdout, "  -%-10s %s (%d; %d)\n", p.Name, p.Usage, p.Default, p.Small)
	}
	var vs []string
	for _, v := range w.Variants {
		if v == "" {
			v = "defaults"
		}
		vs = append(vs, v)
	}
	if len(vs) > 0 {
		fmt.Fprintf(e.stdout, "\nThe matrix runs it with: %s\n", strings.Join(vs, "; "))
	}
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
	}
	fmt.Fprintf(e.stdout, "cowlab %s %s\n", version, goVersion)
	return nil
}
