package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cowlab/cowlab/tests/conformance"
	"github.com/cowlab/cowlab/tests/matrix"
)

func runCow(e *env, args []string) error {
	kinds := conformance.Kinds()
	about := "Run the cases of other people's test suites for copy-on-write and pinned pages: cow.c,\n" +
		"gup_longterm.c and hugetlb_dio.c of Linux, gVisor's, Andrea Arcangeli's reproducers.\n" +
		"Each case runs on the kinds of page that it is for:\n\n"
	for _, k := range kinds {
		about += fmt.Sprintf("  %-11s %s\n", k.Name, k.About)
	}
	about += "\nPages of 1 GiB take part in every case that pages of 2 MiB are for.\n"
	about += "\nPolicies that show the same share a line, with what was seen below it. A case is one\n" +
		"program in lock-step, and a cell one run of it in the timed regime: \"pass\" is not the\n" +
		"result of a search. Interrupted by Ctrl-C, it prints what was found so far and exits with 3."
	fs := newFlags(e, "cow", "[flags]", about,
		"cowlab cow -cases 'cow *' -policies stock -v",
		"cowlab cow -cases '*vmsplice*' -pages swap,swapcache",
		"cowlab cow -format json > known.json",
		"cowlab cow -expect known.json")
	policies := fs.String("policies", "", "comma-separated `names`; default all")
	glob := fs.String("cases", "*", "cases whose name, or what stands before its colon, matches a `pattern`: * is anything, ? one character")
	pages := fs.String("pages", "", "comma-separated `kinds` of page; default all")
	form := fs.String("format", "text", "text or json")
	expect := fs.String("expect", "", "compare the verdicts with those in a `file` written with -format json; exit 1 if they differ")
	explain := fs.Bool("v", false, "say beside each case which step of 2.6.29 makes it fail")
	if _, err := parse(fs, args, 0); err != nil {
		return err
	}
	if err := oneOf("format", *form, "text", "json"); err != nil {
		return err
	}
	ps, err := e.choosePolicies(*policies)
	if err != nil {
		return err
	}
	if kinds, err = chooseKinds(kinds, *pages); err != nil {
		return err
	}
	cases := conformance.Match(conformance.All(), *glob)
	if len(cases) == 0 {
		return usagef("-cases %q matches none%s; cowlab cow -policies stock -pages base lists most", *glob, didYouMean(*glob, caseIDs()))
	}
	if !anyRuns(cases, kinds) {
		return usagef("-cases %q and -pages %s together leave nothing to run", *glob, *pages)
	}
	var want *matrix.Table
	if *expect != "" {
		f, err := os.Open(*expect)
		if err != nil {
			return usagef("-expect: %v", err)
		}
		want, err = conformance.ReadJSON(f)
		f.Close()
		if err != nil {
			return usagef("-expect %s: %v", *expect, err)
		}
	}
	bar := newProgress(e)
	t, err := conformance.Run(e.ctx, conformance.Options{Policies: ps, Cases: cases, Kinds: kinds, Progress: bar.show})
	bar.clear()
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	var werr error
	if *form == "json" {
		werr = t.WriteJSON(e.stdout)
	} else {
		werr = conformance.WriteText(e.stdout, t, *explain)
	}
	if err = errors.Join(err, werr); err != nil {
		return err
	}
	if want != nil {
		if diffs := conformance.Differences(t, want, kinds); len(diffs) > 0 {
			return fmt.Errorf("%w in %d of %d cells:\n  %s", errDiffer, len(diffs), len(t.Cells), strings.Join(diffs, "\n  "))
		}
	}
	return nil
}

// chooseKinds reads a comma-separated list; empty means all.
func chooseKinds(all []*conformance.Kind, list string) ([]*conformance.Kind, error) {
	if list == "" {
		return all, nil
	}
	var names []string
	for _, k := range all {
		names = append(names, k.Name)
	}
	var out []*conformance.Kind
next:
	for _, n := range strings.Split(list, ",") {
		n = strings.TrimSpace(n)
		for _, k := range all {
			if k.Name == n {
				out = append(out, k)
				continue next
			}
		}
		return nil, usagef("unknown kind of page %q%s; there are %s", n, didYouMean(n, names), strings.Join(names, ", "))
	}
	return out, nil
}

func anyRuns(cases []*conformance.Case, kinds []*conformance.Kind) bool {
	for _, c := range cases {
		for _, k := range kinds {
			if c.RunsOn(k) {
				return true
			}
		}
	}
	return false
}

// caseIDs lists what stands before the colons.
func caseIDs() (ids []string) {
	for _, c := range conformance.All() {
		id, _, _ := strings.Cut(c.Name, ":")
		ids = append(ids, id)
	}
	return ids
}
