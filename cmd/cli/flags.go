package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/tests/workload"
)

// newFlags makes a verb's flag set, which reports errors in one line and prints help
// on stdout only when asked. examples, if any, are printed after the flags.
func newFlags(e *env, name, args, about string, examples ...string) *flag.FlagSet {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {
		usageHead(e.stdout, name, args, about)
		printFlags(e.stdout, "Flags", fs, nil)
		usageExamples(e.stdout, examples)
	}
	return fs
}

func usageHead(w io.Writer, name, args, about string) {
	fmt.Fprintf(w, "Usage: cowlab %s\n\n%s\n", strings.TrimSpace(name+" "+args), about)
}

func usageExamples(w io.Writer, examples []string) {
	if len(examples) == 0 {
		return
	}
	fmt.Fprint(w, "\nExamples:\n")
	for _, x := range examples {
		fmt.Fprintf(w, "  %s\n", x)
	}
}

// printFlags prints the flags for which keep holds, all if it is nil, under a heading.
func printFlags(w io.Writer, heading string, fs *flag.FlagSet, keep func(name string) bool) {
	some := flag.NewFlagSet("", flag.ContinueOnError)
	some.SetOutput(w)
	n := 0
	fs.VisitAll(func(f *flag.Flag) {
		if keep == nil || keep(f.Name) {
			some.Var(f.Value, f.Name, f.Usage)
			some.Lookup(f.Name).DefValue = f.DefValue // not what has been parsed so far
			n++
		}
	})
	if n > 0 {
		fmt.Fprintf(w, "\n%s:\n", heading)
		some.PrintDefaults()
	}
}

// params are the flags that are a workload's parameters.
type params map[string]*int64

// defineParams defines a flag for each parameter of a workload, which may be nil; small says
// that it is the small form that runs.
func defineParams(fs *flag.FlagSet, w *workload.Workload, small bool) params {
	vals := params{}
	if w == nil {
		return vals
	}
	for _, p := range w.Params {
		def, usage := p.Default, p.Usage
		switch {
		case small:
			def = p.Small
		case p.Small != p.Default:
			usage = fmt.Sprintf("%s (%d in the small form)", p.Usage, p.Small)
		}
		vals[p.Name] = fs.Int64(p.Name, def, usage)
	}
	return vals
}

// firstGiven returns the first of the flags that stood on the command line, "" if none did.
func firstGiven(fs *flag.FlagSet, names ...string) string {
	for _, name := range names {
		if given(fs, name) {
			return name
		}
	}
	return ""
}

// checkWorkers checks what -workers says.
func checkWorkers(n int) error {
	if n < 0 || n > explore.MaxWorkers {
		return usagef("-workers is %d, must be 1 to %d, or 0 for one for each core", n, explore.MaxWorkers)
	}
	return nil
}

// has reports whether a flag is a parameter.
func (p params) has(flag string) bool { return p[flag] != nil }

// read enters the values of the flags that were given.
func (p params) read(fs *flag.FlagSet, v workload.Values) {
	fs.Visit(func(fl *flag.Flag) {
		if p.has(fl.Name) {
			v[fl.Name] = *p[fl.Name]
		}
	})
}

// mentioned returns the workload that a verb's arguments name, nil if there is none: its
// parameters have to be known before the flags can be read.
func mentioned(args []string) *workload.Workload {
	for _, a := range args {
		if w := workload.Lookup(a); w != nil {
			return w
		}
	}
	return nil
}

// parse parses flags that may stand before and after the positional arguments.
func parse(fs *flag.FlagSet, args []string, most int) ([]string, error) {
	usage := fs.Usage
	fs.Usage = func() {} // an error is one line
	var pos []string
	for {
		if err := fs.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				usage()
				return nil, err
			}
			return nil, flagError(fs, err)
		}
		args = fs.Args()
		if len(args) == 0 {
			break
		}
		pos = append(pos, args[0])
		args = args[1:]
	}
	if len(pos) > most {
		return nil, usagef("%s: unexpected argument %q; cowlab %s -h explains", fs.Name(), pos[most], fs.Name())
	}
	return pos, nil
}

var invalidValue = regexp.MustCompile(`^invalid (?:boolean )?value (".*") for (?:flag )?-(\S+): (.*)$`)

// flagError makes the flag package's error say what would be right.
func flagError(fs *flag.FlagSet, err error) error {
	msg := err.Error()
	if _, name, ok := strings.Cut(msg, "flag provided but not defined: -"); ok {
		var names []string
		fs.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
		return usagef("%s has no flag -%s%s; cowlab %s -h lists them", fs.Name(), name, didYouMean(name, names), fs.Name())
	}
	if _, name, ok := strings.Cut(msg, "flag needs an argument: -"); ok {
		return usagef("%s: -%s wants %s", fs.Name(), name, wanted(fs.Lookup(name)))
	}
	if m := invalidValue.FindStringSubmatch(msg); m != nil {
		if strings.Contains(m[3], "range") {
			return usagef("%s: -%s %s is too large", fs.Name(), m[2], strings.Trim(m[1], `"`))
		}
		return usagef("%s: -%s wants %s, not %s", fs.Name(), m[2], wanted(fs.Lookup(m[2])), m[1])
	}
	return usagef("%s: %s", fs.Name(), msg)
}

// wanted says in words what a flag's value must be.
func wanted(f *flag.Flag) string {
	if f == nil {
		return "another value"
	}
	kind, _ := flag.UnquoteUsage(f)
	switch kind {
	case "int":
		return "a whole number"
	case "uint":
		return "a whole number that is not negative"
	case "duration":
		return "a duration like 90s or 10m"
	case "":
		return "true or false"
	case "string":
		return "a word"
	}
	if strings.HasSuffix(kind, "s") { // names of several
		return kind
	}
	return "a " + kind
}

// oneOf checks a flag that is one of a few words.
func oneOf(name, s string, allowed ...string) error {
	for _, a := range allowed {
		if s == a {
			return nil
		}
	}
	return usagef("-%s %q%s: must be %s", name, s, didYouMean(s, allowed), strings.Join(allowed, ", "))
}
