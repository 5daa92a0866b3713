package scenarios

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "write shipped scenarios in canonical form, and record testdata anew")

// golden compares with a file of testdata, or writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *rewrite {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
		return
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), got, "to record it anew: go test ./tests/scenarios -rewrite")
}

// What ships parses, is called like its file, says what it is about, and stands there in
// its canonical form.
func TestShipped(t *testing.T) {
	names := Names()
	assert.GreaterOrEqual(t, len(names), 40)
	for _, n := range names {
		s, err := Lookup(n)
		require.NoError(t, err)
		assert.Equal(t, n, s.Name, "the name in the file")
		assert.NotEmpty(t, s.Doc, n)
		assert.NotEmpty(t, s.Story, "%s has no comment that tells its story", n)
		for _, l := range strings.Split(s.Print(), "\n") {
			assert.LessOrEqual(t, utf8.RuneCountInString(l), 130, "%s: %s", n, l)
		}
		golden(t, "testdata/"+n+Suffix, s.Print())
	}
}

// Every file of bad.txtar is wrong in one way; the error says where, what was found and
// what was expected.
func TestErrors(t *testing.T) {
	a, err := txtar.ParseFile("testdata/bad.txtar")
	require.NoError(t, err)
	var got strings.Builder
	for _, f := range a.Files {
		_, err := Parse(f.Name, string(f.Data))
		if !assert.Error(t, err, f.Name) {
			continue
		}
		var e *Error
		require.ErrorAs(t, err, &e)
		lines := strings.Split(string(f.Data), "\n")
		if assert.LessOrEqual(t, e.Pos.Line, len(lines), f.Name) {
			assert.LessOrEqual(t, e.Pos.Col, len(lines[e.Pos.Line-1])+1, "%v: the place is in the text", err)
		}
		assert.NotContains(t, e.Msg, "\n")
		fmt.Fprintln(&got, err)
	}
	golden(t, "testdata/bad.txt", got.String())
}

// FuzzParse: no text panics or hangs, an error has a place, and what parses is printed so
// that it parses to the same.
func FuzzParse(f *testing.F) {
	for _, n := range Names() {
		text, err := shipped.ReadFile("testdata/" + n + Suffix)
		require.NoError(f, err)
		f.Add(string(text))
	}
	a, err := txtar.ParseFile("testdata/bad.txtar")
	require.NoError(f, err)
	for _, x := range a.Files {
		f.Add(string(x.Data))
	}
	f.Add("(*)")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse("fuzz", text)
		if err != nil {
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Positive(t, e.Pos.Line)
			assert.Positive(t, e.Pos.Col)
			return
		}
		printed := s.Print()
		again, err := Parse("printed", printed)
		require.NoError(t, err, "%s", printed)
		assert.Equal(t, printed, again.Print())
		assert.Equal(t, s.sum(), again.sum())
	})
}

// Deep and long texts end with an error, not with a stack overflow or a long wait.
func TestParseBounds(t *testing.T) {
	head := "cowlab x\n\"\"\nmap A 1 page private\n P0 ;\nnever "
	for name, text := range map[string]string{
		"deep":      head + strings.Repeat("(", 100_000),
		"not":       head + strings.Repeat("~", 100_000) + "bug",
		"long line": strings.Repeat("a", maxText+1),
		"columns":   "cowlab x\n\"\"\n" + strings.Repeat("P |", 1000),
		"rows":      "cowlab x\n\"\"\n P0 ;\n" + strings.Repeat(";\n", 1000),
	} {
		_, err := Parse(name, text)
		require.Error(t, err, name)
		assert.Less(t, len(err.Error()), 200, name)
	}
	_, err := Parse("wide", head+"bug"+strings.Repeat(` /\ bug`, 20_000))
	assert.NoError(t, err, "long conditions are only long")
}

func TestNumbers(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "512": 512, "0x200": 512, "4K": 4096, "1M": 1 << 20, "-5": -5, "-EIO": -5, "0xff": 255} {
		got, ok := parseNumber(text)
		assert.True(t, ok, text)
		assert.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "-", "x", "0x", "12a", "1KK", "-EWHAT", "99999999999999999999", "1000000000M", "0xG", "K"} {
		_, ok := parseNumber(text)
		assert.False(t, ok, text)
	}
	for _, v := range []int64{0, 5, 512, 4096, 1 << 20, -5, -14, -1000, 1536} {
		got, ok := parseNumber(numberText(v))
		assert.True(t, ok)
		assert.Equal(t, v, got)
	}
}
