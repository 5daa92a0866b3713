package hygiene

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// file is one parsed Go file.
type file struct {
	path  string // below the module's root, with slashes
	ast   *ast.File
	lines int
	test  bool
}

// tree is all files, sorted by path.
type tree []*file

func (f *file) dir() string { return path.Dir(f.path) }

// dirs groups the files by directory.
func (t tree) dirs() map[string]tree {
	m := map[string]tree{}
	for _, f := range t {
		m[f.dir()] = append(m[f.dir()], f)
	}
	return m
}

// uses returns the names that the file selects from the package with the
// given import path, whatever it calls the package.
func (f *file) uses(pkg string) (names []string) {
	local := ""
	for _, imp := range f.ast.Imports {
		if imp.Path.Value != strconv.Quote(pkg) {
			continue
		}
		local = path.Base(strings.TrimSuffix(pkg, "/v2"))
		if imp.Name != nil {
			local = imp.Name.Name
		}
	}
	if local == "" {
		return nil
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == local {
				names = append(names, s.Sel.Name)
			}
		}
		return true
	})
	if local == "." {
		names = append(names, "(dot import)")
	}
	return names
}

func exprText(e ast.Expr) string {
	var b bytes.Buffer
	if err := printer.Fprint(&b, token.NewFileSet(), e); err != nil {
		return err.Error()
	}
	return b.String()
}

// parse reads one file.
func parse(name string, src []byte) (*file, error) {
	a, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	lines := bytes.Count(src, []byte("\n"))
	if !bytes.HasSuffix(src, []byte("\n")) {
		lines++
	}
	return &file{path: name, ast: a, lines: lines, test: strings.HasSuffix(name, "_test.go")}, nil
}

// load parses every Go file below root, of all platforms and build tags.
func load(root string) (tree, error) {
	var t tree
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (name == "testdata" || name == "vendor" || name[0] == '.' || name[0] == '_') {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" || name[0] == '.' || name[0] == '_' {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		f, err := parse(filepath.ToSlash(rel), src)
		if err != nil {
			return err
		}
		t = append(t, f)
		return nil
	})
	return t, err
}

// moduleRoot is the directory of go.mod.
func moduleRoot(t *testing.T) string {
	dir, err := os.Getwd()
	require.NoError(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		require.NotEqual(t, dir, up, "no go.mod above the test")
		dir = up
	}
}

// TestRepository applies every rule to the repository.
func TestRepository(t *testing.T) {
	files, err := load(moduleRoot(t))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			found := r.check(files)
			slices.Sort(found)
			for _, f := range found {
				t.Error(f)
			}
		})
	}
}

// TestModulePath holds the constant that import directions rest on to go.mod.
func TestModulePath(t *testing.T) {
	mod, err := os.ReadFile(filepath.Join(moduleRoot(t), "go.mod"))
	require.NoError(t, err)
	assert.Contains(t, string(mod), fmt.Sprintf("module %s\n", module))
}

// TestRulesCanFail feeds each rule its made-up offenders, one at a time, and
// its made-up innocents.
func TestRulesCanFail(t *testing.T) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			require.NotEmpty(t, r.bad)
			require.NotEmpty(t, r.good)
			for _, b := range r.bad {
				f, err := parse(b.path, []byte(b.src))
				require.NoError(t, err)
				found := r.check(tree{f})
				require.NotEmpty(t, found, "not caught: %s\n%.200s", b.path, b.src)
				assert.Contains(t, strings.Join(found, "\n"), b.says)
			}
			var innocent tree
			for _, g := range r.good {
				f, err := parse(g.path, []byte(g.src))
				require.NoError(t, err)
				innocent = append(innocent, f)
			}
			assert.Empty(t, r.check(innocent))
		})
	}
}

// Two package comments are one too many; that takes two files.
func TestTwoPackageComments(t *testing.T) {
	var two tree
	for _, p := range []string{"mm/doc.go", "mm/more.go"} {
		f, err := parse(p, []byte("// Package mm maps.\npackage mm\n"))
		require.NoError(t, err)
		two = append(two, f)
	}
	assert.Contains(t, strings.Join(packageComments(two), "\n"), "mm: 2 package comments")
}

// The table of rooms must itself be a plan: without cycles, and with trace below everything.
func TestRoomsHaveNoCycles(t *testing.T) {
	const (
		fresh = iota
		entered
		left
	)
	state := map[string]int{}
	var visit func(name string)
	visit = func(name string) {
		require.NotEqual(t, entered, state[name], "a cycle through %s", name)
		if state[name] == left {
			return
		}
		state[name] = entered
		r := roomOf(strings.TrimSuffix(name, "*") + strings.Repeat("x", strings.Count(name, "*")))
		require.NotNil(t, r, name)
		for _, m := range r.may {
			if m != name { // tests/* import one another; Go forbids cycles there
				visit(m)
			}
		}
		state[name] = left
	}
	for _, r := range rooms {
		visit(r.name)
	}
	assert.Empty(t, roomOf("kernel/trace").may)
	assert.Equal(t, "tests/*", roomOf("tests/hygiene").name)
	assert.Equal(t, "mm/policy", roomOf("mm/policy").name)
	assert.Nil(t, roomOf("mm/other"))
}
