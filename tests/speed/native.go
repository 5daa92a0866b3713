package speed

import (
	"bufio"
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

//go:embed native/*.c native/*.h
var nativeSource embed.FS

// ErrNoCompiler is returned by BuildProbe when no C compiler is found.
var ErrNoCompiler = errors.New("no C compiler (cc or gcc) on this machine")

// Probe is the compiled native side, a program in a directory of its own.
type Probe struct {
	// SwapFile lets the swap operations put a swap file of their own into use, in the
	// probe's directory, for as long as they run: it needs root, and it changes the
	// host meanwhile. Without it they use the area that the host has, or say that
	// there is none. Set it before the first Start.
	SwapFile bool

	dir string // immutable; removed by Close
}

// BuildProbe compiles the probes with cc or gcc -O2 into a new directory below
// dir ("" is the system's temporary directory). Direct reads use the same
// directory, so it should lie on a real disk. The caller closes the probe.
//
// Errors: ErrNoCompiler; the compiler's first words where it fails, as it does
// on anything but Linux; what the file system says.
func BuildProbe(ctx context.Context, dir string) (*Probe, error) {
	cc, err := compiler()
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp(dir, "cowlab-speed-")
	if err != nil {
		return nil, err
	}
	p := &Probe{dir: work}
	if err := p.compile(ctx, cc); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// compiler returns the path of the C compiler.
func compiler() (string, error) {
	for _, name := range []string{"cc", "gcc"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNoCompiler
}

// compile writes the sources into the directory and builds the program there.
func (p *Probe) compile(ctx context.Context, cc string) error {
	args := []string{"-O2", "-pthread", "-D_GNU_SOURCE", "-o", p.program()}
	files, err := fs.Glob(nativeSource, "native/*")
	if err != nil {
		return err
	}
	for _, name := range files {
		text, err := nativeSource.ReadFile(name)
		if err != nil {
			return err
		}
		path := filepath.Join(p.dir, filepath.Base(name))
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return err
		}
		if strings.HasSuffix(name, ".c") {
			args = append(args, path)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, cc, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("compiling the probes: %w: %s", err, firstLine(out))
	}
	return nil
}

func (p *Probe) program() string { return filepath.Join(p.dir, "probe") }

// Close removes the program and its directory, and a swap file that is still in use
// because the probe was killed.
func (p *Probe) Close() error {
	var err error
	if p.SwapFile {
		err = exec.Command(p.program(), "swapoff", "dir="+p.dir).Run()
	}
	return errors.Join(err, os.RemoveAll(p.dir))
}

// Session is one running probe process, which serves one operation.
type Session struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  chan string // closed when the process's output ends
	cancel context.CancelFunc
}

// Start runs the probe for an operation ("fork-page", ...) and waits until it is
// ready. Options have the form key=value. The session ends with ctx or Close.
//
// Errors: what the probe says it lacks, e.g. a second CPU.
func (p *Probe) Start(ctx context.Context, op string, options ...string) (*Session, error) {
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{lines: make(chan string, 1), cancel: cancel}
	args := append([]string{op, "dir=" + p.dir}, options...)
	if p.SwapFile {
		args = append(args, "swapfile=1")
	}
	s.cmd = exec.CommandContext(ctx, p.program(), args...)
	s.cmd.WaitDelay = time.Second
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		cancel()
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(s.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			s.lines <- scan.Text()
		}
	}()
	line, err := s.answer(ctx, time.Minute)
	if err == nil && line != "ready" {
		err = fmt.Errorf("the probe says %q instead of ready", line)
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("probe %s: %w", op, err)
	}
	return s, nil
}

// Run does one batch of n units and returns ns for each of them. It waits at
// most the given time; after an error of the process itself (not of the
// operation) the session is of no more use.
func (s *Session) Run(ctx context.Context, n int, limit time.Duration) (float64, error) {
	if _, err := fmt.Fprintf(s.in, "run %d\n", n); err != nil {
		return 0, err
	}
	line, err := s.answer(ctx, limit)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(line, 64)
}

// answer returns the next line of the process, an error for "error TEXT".
func (s *Session) answer(ctx context.Context, limit time.Duration) (string, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case line, ok := <-s.lines:
		if !ok {
			return "", errors.New("the probe ended early")
		}
		if text, bad := strings.CutPrefix(line, "error "); bad {
			return "", errors.New(text)
		}
		return line, nil
	case <-timer.C:
		s.cancel() // its answer would come too late for every later question
		return "", fmt.Errorf("no answer within %v", limit)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Close ends the process and waits for it.
func (s *Session) Close() {
	s.in.Close()
	gone := time.AfterFunc(2*time.Second, s.cancel)
	for range s.lines {
	}
	s.cmd.Wait() //nolint:errcheck // killed or not, it is gone
	gone.Stop()
	s.cancel()
}

// firstLine returns the first line of a tool's output.
func firstLine(out []byte) string {
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	return string(line)
}
