package cli

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
)

// rezip copies a bundle; change may replace what is in a file.
func rezip(t *testing.T, from, to string, change func(name string, data []byte) []byte) {
	z, err := zip.OpenReader(from)
	require.NoError(t, err)
	defer z.Close()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range z.File {
		r, err := f.Open()
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		if data = change(f.Name, data); data == nil {
			continue
		}
		out, err := w.Create(f.Name)
		require.NoError(t, err)
		_, err = out.Write(data)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, os.WriteFile(to, b.Bytes(), 0o666))
}

// A bundle holds everything about a run. Where the program makes another step than the one
// that was recorded, both sides are shown, and the switches are looked for.
func TestBundle(t *testing.T) {
	t.Parallel()
	tok := explore.Token{Target: "pin_fork", Policy: "stock",
		Spec: explore.Spec{Kind: explore.KindSwitches, Switches: []explore.Switch{{At: 18, To: explore.CPUActor(1)}}}}
	dir := t.TempDir()
	file := filepath.Join(dir, "a.zip")
	e, stdout, stderr := newEnv()
	require.Equal(t, exitOK, run(e, []string{"replay", tok.String(), "-diagram=false", "-bundle", file}), stderr.String())
	verdict := regexp.MustCompile(`(?m)^pin_fork under stock: .*\n`).FindString(stdout.String())
	require.NotEmpty(t, verdict)
	z, err := zip.OpenReader(file)
	require.NoError(t, err)
	var names []string
	for _, f := range z.File {
		names = append(names, f.Name)
		assert.NotZero(t, f.UncompressedSize64, f.Name)
	}
	require.NoError(t, z.Close())
	assert.Equal(t, []string{"README.txt", "token.txt", "schedule.switches", "steps.txt", "scenario.txt", "diagram.txt",
		"viewer.html", "story.json", "trace.json", "trace.txt"}, names)

	state := regexp.MustCompile(`state [0-9a-f]+`).FindString(stdout.String())
	e, stdout, stderr = newEnv()
	require.Equal(t, exitOK, run(e, []string{"replay", file, "-diagram=false"}), stderr.String())
	assert.Contains(t, stdout.String(), state, "it is the same run")

	changed := filepath.Join(dir, "b.zip")
	rezip(t, file, changed, func(name string, data []byte) []byte {
		if name == bundleSteps {
			return regexp.MustCompile(`(?m)^30 cpu\d .*$`).ReplaceAll(data, []byte(`30 cpu1 "dma read" 0x100000000000008`))
		}
		return data
	})
	e, stdout, stderr = newEnv()
	assert.Equal(t, exitDiffer, run(e, []string{"replay", changed, "-diagram=false"}))
	assert.Regexp(t, `^replay diverges at decision 30\n(  both: .*\n){3}  recorded: cpu 1: dma read .*\n  program:  cpu \d: .*`, stdout.String())
	assert.Contains(t, stdout.String(), "all 1 switches were found: "+tok.String())
	assert.Contains(t, stdout.String(), verdict, "the switches are where they were")
	assert.Contains(t, stderr.String(), "the program makes other steps than were recorded")

	for name, change := range map[string]func(string, []byte) []byte{
		"it has no schedule.switches": func(n string, d []byte) []byte {
			if n == bundleSwitches {
				return nil
			}
			return d
		},
		"it has no steps.txt": func(n string, d []byte) []byte {
			if n == bundleSteps {
				return nil
			}
			return d
		},
		"recording: line 2": func(n string, d []byte) []byte {
			if n == bundleSteps {
				return append(d[:bytes.IndexByte(d, '\n')+1], "x y z\n"...)
			}
			return d
		},
	} {
		bad := filepath.Join(dir, "c.zip")
		rezip(t, file, bad, change)
		e, _, stderr := newEnv()
		assert.Equal(t, exitUsage, run(e, []string{"replay", bad}))
		assert.Contains(t, stderr.String(), name)
	}
}
