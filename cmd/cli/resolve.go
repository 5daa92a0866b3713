package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/tests/claims"
	"github.com/cowlab/cowlab/tests/matrix"
	"github.com/cowlab/cowlab/tests/scenarios"
	"github.com/cowlab/cowlab/tests/spec"
	"github.com/cowlab/cowlab/tests/workload"
)

// named is what a token names, ready to be run.
type named struct {
	target *explore.Target
	title  string
	policy mm.Policy
	// traced runs it once with events recorded; done gets the machine at rest.
	traced func(s sched.Strategy, done func(*kernel.Machine)) error
	// shrinking, if not nil, is how a schedule that ended with a verdict is minimised.
	shrinking func(verdict string) (explore.Target, explore.ShrinkOptions)
	// describe says what it is.
	describe func(w io.Writer) error
}

// resolve looks up what a token names: a workload, a scenario or a scenario's file.
func (e *env) resolve(tok explore.Token, hosts *kernel.Hosts) (*named, error) {
	w := workload.Lookup(tok.Target)
	if w == nil || scenarios.IsToken(tok) { // forkscrew is both a workload and a scenario
		if tok.OfTest() {
			return nil, usagef("the token names a Go test; run it in the test's package, or from the top of the module if the command names one:\n  %s", tok.Command())
		}
		if slices.Contains(claims.Names(), tok.Target) {
			return e.resolveClaim(tok, hosts)
		}
		return e.resolveScenario(tok, hosts)
	}
	p, err := e.findVariant(tok.Policy)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	text := ""
	for i, prm := range tok.Params {
		if i > 0 {
			text += ","
		}
		text += prm.Key + "=" + prm.Value
	}
	v, err := w.Parse(text, true)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	return &named{
		target: matrix.Target(w, v, p, hosts), title: title(w, v), policy: p,
		traced: func(s sched.Strategy, done func(*kernel.Machine)) error {
			_, err := workload.Execute(w, workload.Options{
				Policy: p, Values: v, Small: true, Regime: sched.Free, Strategy: s, Events: true, Hosts: hosts, Done: done,
			})
			return err
		},
		describe: func(out io.Writer) error {
			_, err := fmt.Fprintf(out, "workload %s: %s\ncpus %d\nregime free\n", w.Name, w.Title, w.SmallCPUs)
			for _, p := range w.Params {
				if err == nil {
					_, err = fmt.Fprintf(out, "%s %d (%s)\n", p.Name, v[p.Name], p.Usage)
				}
			}
			return err
		},
	}, nil
}

// resolveClaim looks up an experiment of a claim.
func (e *env) resolveClaim(tok explore.Token, hosts *kernel.Hosts) (*named, error) {
	sc, err := claims.Scenario(tok.Target)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	if sc != nil {
		return e.ofScenario(sc, tok, hosts)
	}
	t, err := claims.Target(tok, e.policies, hosts)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	p, err := e.findVariant(tok.Policy)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	return &named{
		target: t, title: tok.Target, policy: p,
		traced: func(s sched.Strategy, done func(*kernel.Machine)) error {
			return claims.Traced(tok.Target, p, hosts, s, done)
		},
		describe: func(out io.Writer) error {
			text, err := claims.Describe(tok.Target)
			if err == nil {
				_, err = io.WriteString(out, text)
			}
			return err
		},
	}, nil
}

// findVariant is findPolicy for tokens: claims have variants of policies.
func (e *env) findVariant(name string) (mm.Policy, error) {
	if p := claims.Policy(e.policies, name); p != nil {
		return p, nil
	}
	return e.findPolicy(name)
}

// resolveScenario looks up a scenario that a token names.
func (e *env) resolveScenario(tok explore.Token, hosts *kernel.Hosts) (*named, error) {
	file := strings.HasSuffix(tok.Target, scenarios.Suffix)
	if _, random := spec.Seed(tok.Target); !file && !random && !slices.Contains(scenarios.Names(), tok.Target) {
		_, err := findWorkload(tok.Target)
		return nil, usagef("token: %v; nor is it a scenario or a claim's experiment. Programs of Go tests are replayed by their tests", err)
	}
	sc, err := findScenario(tok.Target)
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	return e.ofScenario(sc, tok, hosts)
}

// ofScenario is what a scenario's token names.
func (e *env) ofScenario(sc *scenarios.Scenario, tok explore.Token, hosts *kernel.Hosts) (*named, error) {
	p, err := e.findVariant(tok.Policy)
	if err == nil {
		sc, err = sc.ForToken(tok)
	}
	if err != nil {
		return nil, usagef("token: %v", err)
	}
	target := sc.Target(p, hosts)
	return &named{
		target: target, title: strings.TrimSpace(tok.Target + " " + sc.Tuning().String()), policy: p,
		shrinking: func(verdict string) (explore.Target, explore.ShrinkOptions) {
			return sc.Shrinking(e.ctx, target, p, e.policies, hosts, verdict)
		},
		traced: func(s sched.Strategy, done func(*kernel.Machine)) error {
			sc.RunTraced(p, hosts, s, done)
			return nil
		},
		describe: func(out io.Writer) error {
			_, err := io.WriteString(out, sc.Print())
			return err
		},
	}, nil
}
