package hygiene

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strconv"
	"strings"
)

const module = "github.com/cowlab/cowlab"

// maxLines is the length no file may exceed.
const maxLines = 800

// room is a directory, or all directories below one, and what it may import.
type room struct {
	name string
	may  []string // "dir" or "dir/*"
	// determ is set where runs must repeat exactly: no host clock, no host randomness.
	determ bool
	// core is set in rooms that belong to the emulated machine.
	core bool
}

var rooms = []room{
	{name: "cmd/cowlab", may: []string{"cmd/cli", "mm/policy"}},
	{name: "examples/*", may: []string{"cmd/cli", "mm/policy", "mm", "mm/page", "kernel", "kernel/lock", "kernel/sched", "arch/x86"}},
	{name: "cmd/cli", may: []string{"tests/*", "kernel", "kernel/explore", "fs", "mm/policy", "mm", "blk", "mm/page", "kernel/lock", "kernel/sched", "arch/x86"}},
	{name: "tests/*", may: []string{"tests/*", "kernel", "kernel/explore", "fs", "mm/policy", "mm", "blk", "mm/page", "kernel/lock", "kernel/sched", "arch/x86"}},
	{name: "kernel", may: []string{"fs", "mm", "blk", "mm/page", "kernel/lock", "kernel/sched", "arch/x86"}, determ: true, core: true},
	{name: "kernel/explore", may: []string{"kernel/lock", "kernel/sched", "arch/x86"}, determ: true, core: true},
	{name: "fs", may: []string{"mm", "blk", "mm/page", "kernel/lock", "kernel/sched", "arch/x86"}, determ: true, core: true},
	{name: "fs/*", may: []string{"fs", "mm", "blk", "mm/page", "kernel/lock", "kernel/sched", "arch/x86"}, determ: true, core: true},
	{name: "mm/policy", may: []string{"mm", "blk", "mm/page", "kernel/lock", "kernel/sched", "arch/x86"}, determ: true, core: true},
	{name: "mm", may: []string{"blk", "mm/page", "kernel/lock", "kernel/sched", "arch/x86"}, determ: true, core: true},
	{name: "blk", may: []string{"mm/page", "kernel/lock", "kernel/sched", "arch/x86"}, determ: true, core: true},
	{name: "mm/page", may: []string{"kernel/lock", "kernel/sched", "arch/x86"}, determ: true, core: true},
	{name: "kernel/lock", may: []string{"kernel/sched", "arch/x86"}, determ: true, core: true},
	{name: "kernel/sched", may: []string{"arch/x86"}, determ: true, core: true},
	{name: "arch/x86", determ: true, core: true},
	{name: "kernel/trace", determ: true, core: true},
}

// coreModules are the modules of others that core rooms may import outside tests.
var coreModules = []string{"github.com/google/btree", "github.com/cespare/xxhash/v2", "golang.org/x/sys"}

// in reports whether dir is one of the patterns.
func in(dir string, patterns ...string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		base, below := strings.CutSuffix(p, "/*")
		return dir == p || below && strings.HasPrefix(dir, base+"/")
	})
}

// roomOf finds the room of a directory; exact names go before patterns.
func roomOf(dir string) *room {
	for _, exact := range []bool{true, false} {
		for i := range rooms {
			if r := &rooms[i]; exact && r.name == dir || !exact && in(dir, r.name) {
				return r
			}
		}
	}
	return nil
}

// rule is one thing the compiler does not check.
type rule struct {
	name  string
	check func(tree) []string
	bad   []fake // each must be reported by check, with a message that contains says
	good  []fake // all together must not be
}

// fake is a made-up file.
type fake struct {
	path, src, says string
}

var rules = []rule{
	{
		name: "one package comment", check: packageComments,
		bad: []fake{
			{"mm/a.go", "package mm", "no package comment"},
			{"mm/doc.go", "// Package wrong does it.\npackage mm", `must begin "Package mm"`},
			{"mm/vma.go", "// Package mm is here.\npackage mm", "belongs in doc.go"},
			{"cmd/x/main.go", "package main\nfunc main() {}", "no package comment"},
		},
		good: []fake{
			{path: "mm/doc.go", src: "// Package mm maps.\npackage mm"},
			{path: "mm/vma.go", src: "//go:build race\n\npackage mm"},
			{path: "cmd/x/main.go", src: "// Command x does it.\npackage main"},
			{path: "tests/only/a_test.go", src: "package only"},
		},
	},
	{
		name: "import directions", check: importDirections,
		bad: []fake{
			{"kernel/trace/a.go", imports("trace", "arch/x86"), "may not import arch/x86"},
			{"arch/x86/a.go", imports("x86", "kernel/sched"), "may not import kernel/sched"},
			{"mm/page/a.go", imports("page", "mm"), "may not import mm"},
			{"blk/a.go", imports("blk", "mm"), "may not import mm"},
			{"kernel/a.go", imports("kernel", "mm/policy"), "may not import mm/policy"},
			{"kernel/explore/a.go", imports("explore", "mm"), "may not import mm"},
			{"tests/bench/a.go", imports("bench", "cmd/cli"), "may not import cmd/cli"},
			{"tests/bench/a_test.go", imports("bench", "cmd/cli"), "may not import cmd/cli"},
			{"examples/mine/a.go", imports("main", "tests/bench"), "may not import tests/bench"},
			{"mm/utils/a.go", "package utils", "no room"},
			{"mm/a.go", "package mm\nimport _ \"github.com/stretchr/testify/assert\"", "may not import github.com/stretchr/testify"},
		},
		good: []fake{
			{path: "mm/a.go", src: imports("mm", "blk", "mm/page", "kernel/lock", "kernel/trace", "arch/x86")},
			{path: "mm/b.go", src: "package mm\nimport (_ \"slices\"; _ \"github.com/google/btree\")"},
			{path: "mm/a_test.go", src: imports("mm_test", "mm", "mm/policy", "tests/vmtest")},
			{path: "tests/bench/a.go", src: imports("bench", "kernel", "mm/policy", "tests/workload")},
			{path: "examples/mine/a.go", src: imports("main", "cmd/cli", "mm/policy", "mm")},
			{path: "cmd/cli/a.go", src: imports("cli", "tests/bench", "kernel/explore")},
			{path: "mm/policy/a.go", src: imports("policy", "mm")},
		},
	},
	{
		name: "atomics", check: forbidImport("sync/atomic", "arch/x86", "kernel/sched", "tests/speed"),
		bad: []fake{
			{"kernel/lock/a.go", "package lock\nimport \"sync/atomic\"\nvar x atomic.Int32", "sync/atomic"},
			{"tests/bench/a.go", "package bench\nimport a \"sync/atomic\"\nvar x a.Int32", "sync/atomic"},
		},
		good: []fake{
			{path: "arch/x86/a.go", src: "package x86\nimport _ \"sync/atomic\""},
			{path: "kernel/sched/a.go", src: "package sched\nimport _ \"sync/atomic\""},
			{path: "mm/a_test.go", src: "package mm\nimport _ \"sync/atomic\""},
		},
	},
	{
		name: "host locks", check: forbidImport("sync", "arch/x86", "kernel/sched", "tests/*", "cmd/*"),
		bad:  []fake{{"mm/a.go", "package mm\nimport \"sync\"\nvar m sync.Mutex", "sync"}},
		good: []fake{{path: "tests/vmtest/a.go", src: "package vmtest\nimport _ \"sync\""}},
	},
	{
		name: "unsafe", check: forbidImportInTests("unsafe", "arch/x86", "mm/page", "tests/bench", "tests/speed"),
		bad: []fake{
			{"mm/a.go", "package mm\nimport \"unsafe\"", "unsafe"},
			{"kernel/sched/a_test.go", "package sched\nimport \"unsafe\"", "unsafe"},
		},
		good: []fake{
			{path: "mm/page/a.go", src: "package page\nimport _ \"unsafe\""},
			{path: "arch/x86/a.go", src: "package x86\nimport _ \"unsafe\""},
			{path: "tests/bench/a_test.go", src: "package bench\nimport _ \"unsafe\""},
		},
	},
	{
		name: "no locked threads", check: noLockedThreads,
		bad: []fake{
			{"kernel/sched/a.go", "package sched\nimport \"runtime\"\nfunc f() { runtime.LockOSThread() }", "LockOSThread"},
			{"mm/a_test.go", "package mm\nimport r \"runtime\"\nvar f = r.LockOSThread", "LockOSThread"},
		},
		good: []fake{{path: "mm/a.go", src: "package mm\n// LockOSThread is not for us.\nvar s = \"runtime.LockOSThread\""}},
	},
	{
		name: "file length", check: fileLength,
		bad:  []fake{{"mm/a.go", "package mm" + strings.Repeat("\n", maxLines+1), "lines"}},
		good: []fake{{path: "mm/a.go", src: "package mm" + strings.Repeat("\n", maxLines)}},
	},
	{
		name: "no host clock or randomness", check: repeatable,
		bad: []fake{
			{"kernel/a.go", "package kernel\nimport \"time\"\nvar t = time.Now()", "time.Now"},
			{"mm/a.go", "package mm\nimport tm \"time\"\nfunc f(t tm.Time) { tm.Since(t) }", "time.Since"},
			{"blk/a.go", "package blk\nimport \"math/rand\"\nvar n = rand.Intn(4)", "rand.Intn"},
			{"fs/a.go", "package fs\nimport \"math/rand/v2\"\nvar n = rand.IntN(4)", "rand.IntN"},
			{"arch/x86/a.go", "package x86\nimport \"crypto/rand\"\nvar n = rand.Reader", "rand.Reader"},
			{"mm/policy/a.go", "package policy\nimport \"hash/maphash\"\nvar n = maphash.MakeSeed()", "maphash.MakeSeed"},
		},
		good: []fake{
			{path: "kernel/explore/a.go", src: "package explore\nimport \"math/rand/v2\"\nvar r *rand.Rand = rand.New(rand.NewPCG(1, 2))"},
			{path: "kernel/sched/a.go", src: "package sched\nimport \"time\"\nconst d = time.Second"},
			{path: "arch/x86/a_test.go", src: "package x86\nimport \"time\"\nvar t = time.Now()"},
			{path: "tests/bench/a.go", src: "package bench\nimport \"time\"\nvar t = time.Now()"},
			{path: "mm/a.go", src: "package mm\nvar time struct{ Now int }\nvar x = time.Now"},
		},
	},
	{
		name: "no deferred unlock", check: noDeferredUnlock,
		bad: []fake{
			{"mm/a.go", "package mm\nfunc f() { defer l.Unlock(t) }", "defer l.Unlock"},
			{"fs/a.go", "package fs\nfunc f() { defer mm.Sem.UpRead(t) }", "defer mm.Sem.UpRead"},
			{"mm/page/a.go", "package page\nfunc f() { defer func() { m.UnlockPage(t, p) }() }", "defer m.UnlockPage"},
			{"kernel/a.go", "package kernel\nfunc f() { defer t.PreemptEnable() }", "defer t.PreemptEnable"},
		},
		good: []fake{
			{path: "mm/a.go", src: "package mm\nfunc f() { l.Lock(t); defer g(); l.Unlock(t) }"},
			{path: "kernel/sched/a.go", src: "package sched\nfunc f() { defer mu.Unlock() }"},
			{path: "mm/a_test.go", src: "package mm\nfunc f() { defer l.Unlock(t) }"},
		},
	},
	{
		name: "every kind of event is recorded somewhere", check: eventsRecorded,
		bad: []fake{
			{"kernel/trace/event.go", "package trace\nconst (\n\tEvNone EventKind = iota\n\tEvLost\n)", "EvLost is recorded nowhere"},
		},
		good: []fake{
			{path: "kernel/trace/event.go", src: "package trace\nconst (\n\tEvNone EventKind = iota\n\tEvPin\n)"},
			{path: "mm/gup.go", src: "package mm\nimport \"" + module + "/kernel/trace\"\nfunc f(c *trace.CPU) { c.Event(trace.EvPin, 0, 0, 0, 0) }"},
		},
	},
	{
		name: "no utils file", check: noUtils,
		bad: []fake{
			{"mm/utils.go", "package mm", "utils"},
			{"mm/helpers_test.go", "package mm", "helpers"},
		},
		good: []fake{{path: "mm/memory.go", src: "package mm"}},
	},
}

// imports makes a file that imports rooms of this module.
func imports(pkg string, dirs ...string) string {
	s := "package " + pkg + "\n"
	for _, d := range dirs {
		s += fmt.Sprintf("import _ %q\n", module+"/"+d)
	}
	return s
}

// eventsRecorded wants each kind of event to be handed to a function, which records it, by
// code that is neither a test nor package trace: a kind that nobody records looks, in a
// trace, like something that never happens.
func eventsRecorded(t tree) (found []string) {
	recorded := map[string]bool{}
	for _, f := range t {
		if f.test || f.dir() == "kernel/trace" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if c, ok := n.(*ast.CallExpr); ok {
				for _, a := range c.Args {
					if s, ok := a.(*ast.SelectorExpr); ok && exprText(s.X) == "trace" {
						recorded[s.Sel.Name] = true
					}
				}
			}
			return true
		})
	}
	for _, f := range t {
		if f.path != "kernel/trace/event.go" {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok {
				for _, id := range v.Names {
					if strings.HasPrefix(id.Name, "Ev") && id.Name != "EvNone" && !recorded[id.Name] {
						found = append(found, f.path+": "+id.Name+" is recorded nowhere: record it where it happens, or take it out")
					}
				}
			}
			return true
		})
	}
	return found
}

// packageComments wants each package to have exactly one package comment. It
// stands in doc.go, except that of a command, and begins as godoc wants it.
func packageComments(t tree) (found []string) {
	for dir, files := range t.dirs() {
		pkg, n := "", 0
		for _, f := range files {
			if f.test {
				continue
			}
			pkg = f.ast.Name.Name
			if f.ast.Doc == nil {
				continue
			}
			n++
			want := "Package " + pkg
			if pkg == "main" {
				want = "Command " + path.Base(dir)
			} else if path.Base(f.path) != "doc.go" {
				found = append(found, f.path+": the package comment belongs in doc.go")
			}
			if !strings.HasPrefix(f.ast.Doc.Text(), want+" ") {
				found = append(found, fmt.Sprintf("%s: the package comment must begin %q", f.path, want))
			}
		}
		switch {
		case pkg == "" || n == 1:
		case n == 0:
			found = append(found, dir+": no package comment")
		default:
			found = append(found, fmt.Sprintf("%s: %d package comments", dir, n))
		}
	}
	return found
}

// importDirections wants every import to go right in the table of rooms.
func importDirections(t tree) (found []string) {
	for _, f := range t {
		r := roomOf(f.dir())
		if r == nil {
			found = append(found, fmt.Sprintf("%s: %s is no room of the house plan", f.path, f.dir()))
			continue
		}
		for _, imp := range f.ast.Imports {
			to, _ := strconv.Unquote(imp.Path.Value)
			ours, internal := strings.CutPrefix(to, module+"/")
			ok := true
			switch {
			case internal && f.test:
				ok = in(f.dir(), "cmd/*") || !in(ours, "cmd/*")
			case internal:
				ok = ours == "kernel/trace" || in(ours, r.may...)
			case strings.Contains(strings.Split(to, "/")[0], "."):
				ok = !r.core || f.test || slices.ContainsFunc(coreModules, func(m string) bool {
					return to == m || strings.HasPrefix(to, m+"/")
				})
				ours = to
			}
			if !ok {
				found = append(found, fmt.Sprintf("%s: %s may not import %s", f.path, f.dir(), ours))
			}
		}
	}
	return found
}

// forbidImport forbids a package outside the given rooms, tests excepted.
func forbidImport(pkg string, where ...string) func(tree) []string {
	check := forbidImportInTests(pkg, where...)
	return func(t tree) []string {
		return check(slices.DeleteFunc(slices.Clone(t), func(f *file) bool { return f.test }))
	}
}

// forbidImportInTests forbids a package outside the given rooms.
func forbidImportInTests(pkg string, where ...string) func(tree) []string {
	return func(t tree) (found []string) {
		for _, f := range t {
			for _, imp := range f.ast.Imports {
				if imp.Path.Value == strconv.Quote(pkg) && !in(f.dir(), where...) {
					found = append(found, fmt.Sprintf("%s: imports %s, which only %s may",
						f.path, pkg, strings.Join(where, ", ")))
				}
			}
		}
		return found
	}
}

func noLockedThreads(t tree) (found []string) {
	for _, f := range t {
		for _, s := range f.uses("runtime") {
			if s == "LockOSThread" {
				found = append(found, f.path+": runtime.LockOSThread: CPUs are goroutines, not threads")
			}
		}
	}
	return found
}

func fileLength(t tree) (found []string) {
	for _, f := range t {
		if f.lines > maxLines {
			found = append(found, fmt.Sprintf("%s: %d lines, at most %d", f.path, f.lines, maxLines))
		}
	}
	return found
}

// seeded are the names of math/rand that do not touch the global source.
var seeded = []string{"New", "NewPCG", "NewChaCha8", "NewSource", "NewZipf", "Rand", "Source", "Source64", "PCG", "ChaCha8", "Zipf"}

// repeatable forbids what makes two runs of a program differ.
func repeatable(t tree) (found []string) {
	for _, f := range t {
		r := roomOf(f.dir())
		if r == nil || !r.determ || f.test {
			continue
		}
		bad := func(pkg, name string) {
			found = append(found, fmt.Sprintf("%s: %s.%s does not repeat", f.path, path.Base(pkg), name))
		}
		for _, s := range f.uses("time") {
			if slices.Contains([]string{"Now", "Since", "Until"}, s) {
				bad("time", s)
			}
		}
		for _, pkg := range []string{"math/rand", "math/rand/v2"} {
			for _, s := range f.uses(pkg) {
				if !slices.Contains(seeded, s) {
					bad("rand", s)
				}
			}
		}
		for _, pkg := range []string{"crypto/rand", "hash/maphash"} {
			for _, s := range f.uses(pkg) {
				bad(pkg, s)
			}
		}
	}
	return found
}

// noDeferredUnlock: a schedule is cut short by a panic that unwinds kernel
// code at a point; a deferred unlock would then run in a dying machine. The
// scheduler and the processor use host locks and are exempt.
func noDeferredUnlock(t tree) (found []string) {
	for _, f := range t {
		r := roomOf(f.dir())
		if r == nil || !r.core || f.test || in(f.dir(), "arch/x86", "kernel/sched") {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			d, ok := n.(*ast.DeferStmt)
			if !ok {
				return true
			}
			ast.Inspect(d.Call, func(n ast.Node) bool {
				s, ok := n.(*ast.SelectorExpr)
				if ok && releases(s.Sel.Name) {
					found = append(found, fmt.Sprintf("%s: defer %s", f.path, exprText(s)))
				}
				return true
			})
			return true
		})
	}
	return found
}

// releases reports whether a method's name is that of a release.
func releases(name string) bool {
	for _, p := range []string{"Unlock", "UpRead", "UpWrite", "PreemptEnable", "IRQRestore", "IRQEnable"} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}

func noUtils(t tree) (found []string) {
	for _, f := range t {
		base := strings.TrimSuffix(strings.TrimSuffix(path.Base(f.path), ".go"), "_test")
		if slices.Contains([]string{"util", "utils", "helper", "helpers", "misc", "common"}, base) {
			found = append(found, fmt.Sprintf("%s: there is no %s file: say what it holds", f.path, base))
		}
	}
	return found
}
