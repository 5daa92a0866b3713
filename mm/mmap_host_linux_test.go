package mm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
)

// The same random calls on the host's kernel: result, errno, the byte that was read,
// and the VMAs of the window after each call.
//
// The host is a newer kernel. Where it differs on purpose the scripts stay away:
//
//   - a read of untouched anonymous memory maps the zero page and makes no anon_vma
//     (2.6.32); 2.6.29 allocates. Such reads are made writes.
//   - mprotect takes the charge of a private mapping back when it becomes read-only
//     untouched (6.5), so VM_ACCOUNT, which keeps VMAs apart, differs. Scripts either
//     do not reserve, or leave everything writable.
//   - MADV_WILLNEED of anonymous memory is no error (3.9), unknown advice is one even
//     where nothing is mapped (2.6.33), and MADV_REMOVE works on shared anonymous memory.
//   - forks: a child's VMAs do not merge with new neighbours (2.6.34).

// hostEnv tells the test binary that it is the child that executes calls.
const hostEnv = "COWLAB_HOST_MMAP"

// hostAnswer is what the child reports of a call.
type hostAnswer struct {
	Result mapResult
	Maps   []string
}

// TestHostMmapChild executes the calls that come in on descriptor 3, on the real
// kernel, in a process of its own: what it breaks is its own.
func TestHostMmapChild(t *testing.T) {
	if os.Getenv(hostEnv) == "" {
		t.Skip("only as the child of TestRandomCallsAgainstHost")
	}
	in, out := json.NewDecoder(os.NewFile(3, "calls")), json.NewEncoder(os.NewFile(4, "answers"))
	fd, err := unix.MemfdCreate("cowlab", 0)
	require.NoError(t, err)
	require.NoError(t, unix.Ftruncate(fd, windowPages*pg))
	var pipe [2]int
	require.NoError(t, unix.Pipe(pipe[:]))
	for {
		var op mapOp
		if err := in.Decode(&op); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		a := hostAnswer{Result: hostCall(fd, pipe, op)}
		text, err := os.ReadFile("/proc/self/maps")
		require.NoError(t, err)
		a.Maps = windowMaps(string(text))
		require.NoError(t, out.Encode(a))
	}
}

// hostCall executes a call on the host. Memory is written and read by the kernel, on
// behalf of read and write of a pipe, so that nothing can fault here.
func hostCall(fd int, pipe [2]int, op mapOp) (r mapResult) {
	var errno unix.Errno
	switch op.Call {
	case "mmap":
		file := ^uintptr(0)
		if op.File {
			file = uintptr(fd)
		}
		_, _, errno = unix.Syscall6(unix.SYS_MMAP, uintptr(op.Addr), uintptr(op.Size), uintptr(op.Prot),
			uintptr(op.Flags), file, uintptr(op.PgOff*pg))
	case "munmap":
		_, _, errno = unix.Syscall(unix.SYS_MUNMAP, uintptr(op.Addr), uintptr(op.Size), 0)
	case "mprotect":
		_, _, errno = unix.Syscall(unix.SYS_MPROTECT, uintptr(op.Addr), uintptr(op.Size), uintptr(op.Prot))
	case "madvise":
		_, _, errno = unix.Syscall(unix.SYS_MADVISE, uintptr(op.Addr), uintptr(op.Size), uintptr(op.Advice))
	case "mremap":
		_, _, errno = unix.Syscall6(unix.SYS_MREMAP, uintptr(op.Addr), uintptr(op.Size), uintptr(op.NewSize),
			uintptr(op.Remap), uintptr(op.NewAddr), 0)
	case "mincore":
		errno, r.Vec = hostMincore(pipe, op)
	case "write":
		_, err := unix.Write(pipe[1], []byte{op.Byte})
		if err != nil {
			panic(err)
		}
		_, _, errno = unix.Syscall(unix.SYS_READ, uintptr(pipe[0]), uintptr(op.Addr), 1)
		if errno != 0 {
			drain(pipe[0])
		}
	case "read":
		if _, _, errno = unix.Syscall(unix.SYS_WRITE, uintptr(pipe[1]), uintptr(op.Addr), 1); errno == 0 {
			r.Byte = drain(pipe[0])
		}
	}
	r.Errno = int(errno)
	return r
}

// hostMincore has the kernel write its answer to a page of its own and that to the
// pipe.
func hostMincore(pipe [2]int, op mapOp) (unix.Errno, string) {
	vec, _, errno := unix.Syscall6(unix.SYS_MMAP, 0, pg, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0), 0)
	if errno != 0 {
		panic(errno)
	}
	var b [windowPages]byte
	text, n := "", uintptr(pageAlign(op.Size)/pg)
	_, _, errno = unix.Syscall(unix.SYS_MINCORE, uintptr(op.Addr), uintptr(op.Size), vec)
	if errno == 0 {
		if _, _, err := unix.Syscall(unix.SYS_WRITE, uintptr(pipe[1]), vec, n); err != 0 {
			panic(err)
		}
		if _, err := io.ReadFull(os.NewFile(uintptr(mustDup(pipe[0])), "pipe"), b[:n]); err != nil {
			panic(err)
		}
		text = vecString(b[:n])
	}
	unix.Syscall(unix.SYS_MUNMAP, vec, pg, 0)
	return errno, text
}

func mustDup(fd int) int {
	n, err := unix.Dup(fd)
	if err != nil {
		panic(err)
	}
	return n
}

func drain(fd int) byte {
	var b [1]byte
	if n, err := unix.Read(fd, b[:]); n != 1 {
		panic(fmt.Sprint("nothing in the pipe: ", err))
	}
	return b[0]
}

// hostKernel is the child, seen from the test.
type hostKernel struct {
	cmd    *exec.Cmd
	calls  *os.File
	enc    *json.Encoder
	dec    *json.Decoder
	stderr strings.Builder
}

// startHost starts the child, or skips the test with the reason why it cannot.
func startHost(t *testing.T) *hostKernel {
	exe, err := os.Executable()
	if err != nil {
		t.Skipf("the test binary cannot find itself: %v", err)
	}
	inR, inW, err := os.Pipe()
	require.NoError(t, err)
	outR, outW, err := os.Pipe()
	require.NoError(t, err)
	h := &hostKernel{calls: inW, enc: json.NewEncoder(inW), dec: json.NewDecoder(bufio.NewReader(outR))}
	h.cmd = exec.Command(exe, "-test.run=^TestHostMmapChild$", "-test.count=1")
	h.cmd.Env = append(os.Environ(), hostEnv+"=1")
	h.cmd.ExtraFiles = []*os.File{inR, outW}
	h.cmd.Stdout, h.cmd.Stderr = &h.stderr, &h.stderr
	if err := h.cmd.Start(); err != nil {
		t.Skipf("no child process on this host: %v", err)
	}
	inR.Close()
	outW.Close()
	// A kernel that hangs must not hang the test; a busy host is none.
	kill := time.AfterFunc(5*time.Minute, func() { h.cmd.Process.Kill() })
	t.Cleanup(func() {
		kill.Stop()
		inW.Close()
		h.cmd.Wait()
		outR.Close()
	})
	return h
}

func (h *hostKernel) do(op mapOp) (a hostAnswer, err error) {
	if err = h.enc.Encode(op); err == nil {
		err = h.dec.Decode(&a)
	}
	if err != nil {
		err = fmt.Errorf("the child is gone: %w\n%s", err, h.stderr.String())
	}
	return a, err
}

// hostStyles are the kinds of scripts, each of which keeps away from some of the
// differences.
var hostStyles = []struct {
	name  string
	prots []Prot
	extra MapFlags
}{
	{"not_reserved", []Prot{0, ProtRead, ProtRead | ProtWrite, ProtRead | ProtWrite, ProtRead | ProtExec, 7}, MapNoReserve},
	{"writable", []Prot{ProtRead | ProtWrite, ProtWrite, 7}, 0},
}

func TestRandomCallsAgainstHost(t *testing.T) {
	seeds, calls := 8, 250
	if testing.Short() {
		seeds = 2
	}
	if a, err := startHost(t).do(mapOp{Call: "munmap", Addr: window, Size: windowPages * pg}); err != nil {
		t.Skipf("the host cannot be asked: %v", err)
	} else if a.Result.Errno != 0 || len(a.Maps) != 0 {
		t.Skipf("the host's window is not free: %v %v", a.Result, a.Maps)
	}
	for _, style := range hostStyles {
		for seed := range uint64(seeds) {
			t.Run(fmt.Sprintf("%s/%d", style.name, seed), func(t *testing.T) {
				host := startHost(t)
				r := boot(t, rigOptions{Options: sched.Options{Regime: sched.Timed}})
				r.run(func(u *user) {
					f := newMemfd(u.s, u.t)
					rnd := &mapRand{Rand: rand.New(rand.NewPCG(seed, 2)), wrong: 20,
						prots: style.prots, extra: style.extra,
						advice: []Advice{0, 1, 2, 4, 4, 4, 10, 11},
						isAnon: func(page int) bool {
							v := u.mm.lookupVMA(at(page))
							return v != nil && v.Mapping == nil && v.AnonVMA == nil
						}}
					var log strings.Builder
					for i := range calls {
						op := rnd.next()
						before := u.mm.DebugString()
						got := hostAnswer{Result: u.emulate(f, op), Maps: windowMaps(u.mm.Maps())}
						want, err := host.do(op)
						require.NoError(t, err)
						fmt.Fprintf(&log, "%d: %+v = %v\n", i, op, want.Result)
						require.Equal(t, want, got, "%s\nbefore the last call: %s", &log, before)
					}
					require.NoError(t, u.tryMunmap(window, windowPages*pg))
					f.Put(u.t)
				})
				r.end()
			})
		}
	}
}
