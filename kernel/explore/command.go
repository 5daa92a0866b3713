package explore

import (
	"fmt"
	"regexp"
	"strings"
)

// ScheduleVar names the environment variable that tells a Go test which schedule of its
// program to run: it holds a token.
const ScheduleVar = "COWLAB_SCHEDULE"

// InParam is the parameter of a Go test's tokens that says where the test is: the directory
// of its package, from the top of the module.
const InParam = "in"

// OfTest reports whether the token names the program of a Go test, which the command does
// not have: the target's name is the test's.
func (t Token) OfTest() bool { return strings.HasPrefix(t.Target, "Test") }

// Command is what replays the token: cowlab, or the test that has the program. A test whose
// tokens do not say where it is has to be run in the directory of its package.
func (t Token) Command() string {
	if !t.OfTest() {
		return "cowlab replay " + t.String()
	}
	dir := ""
	for _, p := range t.Params {
		if p.Key == InParam {
			dir = "/" + p.Value
		}
	}
	return fmt.Sprintf("%s=%s %s", ScheduleVar, t, TestCommand(t.Target, "."+dir))
}

// TestCommand is what runs a Go test alone.
func TestCommand(test, dir string) string {
	parts := strings.Split(test, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return fmt.Sprintf("go test -run '%s' %s", strings.Join(parts, "/"), dir)
}

// Command is what replays the story's run.
func (s *Story) Command() string {
	t, err := ParseToken(s.Token)
	if err != nil { // a story that was not captured
		return "cowlab replay " + s.Token
	}
	return t.Command()
}

// head names the run above its diagram: the token, or what replays it where the token alone
// does not tell.
func (s *Story) head() string {
	if c := s.Command(); strings.HasPrefix(c, ScheduleVar) {
		return c
	}
	return s.Token
}
