package cli

import (
	"fmt"
	"strings"

	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/workload"
)

// distance is the edit distance of two words, transpositions counting as one.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}

// nearest returns the name most like s, if any is like it.
func nearest(s string, names []string) string {
	best, least := "", min(len(s), len(s)/2+1) // one letter is like anything
	if strings.Contains(s, "/") {
		return "" // a file's
	}
	for _, n := range names {
		d := distance(strings.ToLower(s), strings.ToLower(n))
		if strings.HasPrefix(n, s) && s != "" {
			d = 1
		}
		if d < least {
			best, least = n, d
		}
	}
	return best
}

// didYouMean is the tail of an error about an unknown name.
func didYouMean(s string, names []string) string {
	if n := nearest(s, names); n != "" {
		return fmt.Sprintf(" (did you mean %q?)", n)
	}
	return ""
}

func policyNames(ps []mm.Policy) []string {
	var names []string
	for _, p := range ps {
		names = append(names, p.Name())
	}
	return names
}

func workloadNames() []string {
	var names []string
	for _, w := range workload.All() {
		names = append(names, w.Name)
	}
	return names
}

// findPolicy looks a policy up by name.
func (e *env) findPolicy(name string) (mm.Policy, error) {
	for _, p := range e.policies {
		if p.Name() == name {
			return p, nil
		}
	}
	names := policyNames(e.policies)
	return nil, usagef("unknown policy %q%s; there are %s", name, didYouMean(name, names), strings.Join(names, ", "))
}

func findWorkload(name string) (*workload.Workload, error) {
	if w := workload.Lookup(name); w != nil {
		return w, nil
	}
	names := workloadNames()
	return nil, usagef("unknown workload %q%s; there are %s", name, didYouMean(name, names), strings.Join(names, ", "))
}

// choosePolicies reads a comma-separated list; empty means all.
func (e *env) choosePolicies(list string) ([]mm.Policy, error) {
	if list == "" {
		return e.policies, nil
	}
	var out []mm.Policy
	for _, n := range strings.Split(list, ",") {
		p, err := e.findPolicy(strings.TrimSpace(n))
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func chooseWorkloads(list string) ([]*workload.Workload, error) {
	if list == "" {
		return workload.All(), nil
	}
	var out []*workload.Workload
	for _, n := range strings.Split(list, ",") {
		w, err := findWorkload(strings.TrimSpace(n))
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}
