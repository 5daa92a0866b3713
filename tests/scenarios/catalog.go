package scenarios

import (
	"embed"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

//go:embed testdata/*.litmus
var shipped embed.FS

// Suffix is that of scenario files.
const Suffix = ".litmus"

// Names returns the names of the scenarios that ship, sorted.
func Names() []string {
	entries, err := fs.ReadDir(shipped, "testdata")
	if err != nil {
		panic(err) // the directory is embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), Suffix))
	}
	return names
}

// Lookup returns the shipped scenario of that name, nil if there is none.
func Lookup(name string) (*Scenario, error) {
	file := name + Suffix
	text, err := shipped.ReadFile("testdata/" + file)
	if err != nil {
		return nil, fmt.Errorf("no scenario is called %q", name)
	}
	return Parse(file, string(text))
}

// All returns the scenarios that ship, by name. The error is that of a file that does not
// parse.
func All() ([]*Scenario, error) {
	var all []*Scenario
	for _, n := range Names() {
		s, err := Lookup(n)
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// File is the path of the host's file that a scenario was read from, empty if it ships.
func (s *Scenario) File() string { return s.path }

// Load returns the scenario in a file of the host. Its name, in tokens, is the path.
func Load(path string) (*Scenario, error) {
	st, err := os.Stat(path) // and then open, which waits if it is a pipe
	if err == nil && (st.Size() > maxText || !st.Mode().IsRegular()) {
		return nil, fmt.Errorf("%s is no scenario: expected a plain file of at most %d bytes", path, maxText)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err = f.Stat(); err != nil {
		return nil, err
	}
	text := make([]byte, st.Size())
	if _, err := f.Read(text); err != nil && st.Size() > 0 {
		return nil, err
	}
	s, err := Parse(path, string(text))
	if err != nil {
		return nil, err
	}
	s.path = path
	return s, nil
}
