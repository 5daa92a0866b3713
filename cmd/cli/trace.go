package cli

import (
	"fmt"
	"os"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/kernel/trace"
)

// traceFile is a trace being written. The file is made before the run, so that a path
// that cannot be written is known before an hour of work and not after it.
type traceFile struct {
	f   *os.File
	err error
}

func newTrace(path string) (*traceFile, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, fmt.Errorf("-trace: %w", err)
	}
	return &traceFile{f: f}, nil
}

// write writes the events of a machine that has come to rest.
func (t *traceFile) write(m *kernel.Machine) {
	t.err = trace.WritePerfetto(t.f, m.Trace().Events(), m.View())
}

// close ends the file and returns the first of the errors, the run's before others.
func (t *traceFile) close(err error) error {
	cerr := t.f.Close()
	switch {
	case err != nil:
		return err
	case t.err != nil:
		return fmt.Errorf("-trace: %w", t.err)
	case cerr != nil:
		return fmt.Errorf("-trace: %w", cerr)
	}
	return nil
}
