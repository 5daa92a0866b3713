package workload

import (
	"bytes"
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// userWays is the forward race with what a program can do about it itself (thread lines
// 1149-1152, 1188, 1300-1316, 2092): tell the kernel that the child is not to have the
// buffer, or is to have a copy, or use vfork. The buffer does not fill its page, and the
// child needs what lies beside it: the neighbour that a library cannot know of.
func userWays() *Workload {
	return withHuge(pinProgram(Workload{
		Name: "user_ways", Title: "a read in flight into part of a page, a fork, a store; what the program does about it",
		Group: ForwardRace, Lines: "1149-1188, 1300-1316, 2092, 3348-3354",
		Params: []Param{
			{Name: "way", Usage: "0: nothing, 1: MADV_DONTFORK, 2: MADV_DONTCOW, 3: vfork, 4: MADV_DONTFORK, and the child uses the neighbour", Max: 4},
		},
		Variants: []string{"way=0", "way=1", "way=2", "way=3", "way=4"},
		GroupFor: func(v Values) string {
			if v["way"] == 4 {
				return Semantics // the read arrives; it is the child that misses something
			}
			return ForwardRace
		},
		NeedsFor: func(v Values) mm.Guarantee {
			if v["way"] == 4 {
				return mm.Nobody
			}
			return mm.Forward | mm.AIO
		},
		Main: repeat(userWaysRound),
	}), onePage, "huge=1,way=0", "huge=1,way=1", "huge=1,way=2", "huge=1,way=4")
}

func userWaysRound(t *kernel.Thread, r *Run) {
	const neighbour = 2 * x86.SectorSize
	buf := r.mapBuffer(t, x86.PageSize)
	t.Store64(buf, 1)
	t.Store64(buf+neighbour, 7)
	way := r.Values["way"]
	switch way {
	case 1, 4:
		r.failed(t.Madvise(buf, r.bufferLength(x86.PageSize), mm.MadvDontFork), "madvise")
	case 2:
		r.failed(t.Madvise(buf, r.bufferLength(x86.PageSize), mm.MadvDontCOW), "madvise")
	}
	read, ok := readInFlight(t, r, buf+pinnedAt)
	if !ok {
		return
	}
	r.begin()
	child := func(c *kernel.Thread) {
		if way != 1 {
			v, err := c.TryLoad64(buf + neighbour)
			if err != nil {
				r.note(ChildChanged, "the child has lost what lies beside the buffer: "+err.Error())
			} else {
				r.compareWord(ChildChanged, "neighbour of the buffer", neighbour, 7, v)
			}
		}
		c.Exit(0)
	}
	fork := t.Fork
	if way == 3 {
		fork = t.Vfork
	}
	pid, err := fork(child)
	t.Store64(buf, 2)
	read.done(t)
	r.compare(LostRead, "buffer", pinnedAt, pinnedData, t.Bytes(buf+pinnedAt, x86.SectorSize))
	if !r.failed(err, "fork") {
		_, _, err = t.Wait(pid)
		r.failed(err, "wait")
	}
	r.unmapBuffer(t, buf, x86.PageSize)
}

// readOnlyBuffer writes to a file from memory that the process may only read: a constant,
// or memory that nobody has ever touched. Nothing races; what a policy does to read pins
// must not keep it from coming to an end. The file must hold what the memory held. The
// other direction, a read from the file into memory that the process may only read, must
// fail, and leave the memory as it is.
func readOnlyBuffer() *Workload {
	return withHuge(&Workload{
		Name: "readonly_buffer", Title: "an O_DIRECT write from memory that is mapped read-only",
		Group: Liveness, Lines: "5311, 9187-9188",
		Params: []Param{
			{Name: "kind", Usage: "0: stored to and then protected, 1: never touched, 2: never touched, writable, 3: as 0, and the file is read into it", Max: 3},
			{Name: "forked", Usage: "1: a child shares it", Max: 1},
		},
		Variants: []string{"kind=0", "kind=1", "kind=2", "kind=3", "forked=1"},
		Memory:   func(Values) uint64 { return 4 << 20 },
		CPUs:     2, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(Values) int64 { return x86.PageSize },
		Fill:      func(_ Values, disk []byte) { copy(disk, bytes.Repeat([]byte{secretByte}, len(disk))) },
		Writes:    true,
		Main:      readOnlyMain,
	}, onePage, "huge=1", "huge=1,kind=3", "huge=1,forked=1")
}

func readOnlyMain(t *kernel.Thread, r *Run) {
	buf := r.mapBuffer(t, x86.PageSize)
	word := t.MustMmapShared(x86.PageSize)
	want := byte(0)
	kind := r.Values["kind"]
	if kind == 0 || kind == 3 {
		want = publicByte
		t.Fill(buf, x86.PageSize, want)
	}
	if kind != 2 {
		r.failed(t.Mprotect(buf, r.bufferLength(x86.PageSize), mm.ProtRead), "mprotect")
	}
	r.begin()
	pid, err := 0, error(nil)
	if r.Values["forked"] == 1 {
		pid, err = t.Fork(func(c *kernel.Thread) { awaitWord(c, word); c.Exit(0) })
		r.failed(err, "fork")
	}
	fd, err := t.Open(r.Disk, fs.ORdwr|fs.ODirect)
	switch {
	case r.failed(err, "open"):
	case kind == 3:
		if n, err := t.Pread(fd, buf, x86.PageSize, 0); err == nil {
			r.broken(fmt.Sprintf("a read of %d bytes into read-only memory succeeded", n))
		}
		r.compare(WrongCopy, "read-only memory", 0, bytes.Repeat([]byte{want}, x86.PageSize), t.Bytes(buf, x86.PageSize))
		r.failed(t.Close(fd), "close")
	default:
		n, err := t.Pwrite(fd, buf, x86.PageSize, 0)
		if !r.failed(err, "write") && n != x86.PageSize {
			r.broken("write: short")
		}
		r.compare(LeakToDisk, "file", 0, bytes.Repeat([]byte{want}, x86.PageSize), r.image(0, x86.PageSize))
		r.failed(t.Close(fd), "close")
	}
	setWord(t, word)
	if pid != 0 {
		_, _, err = t.Wait(pid)
		r.failed(err, "wait")
	}
	r.unmapBuffer(t, buf, x86.PageSize)
	r.failed(t.Munmap(word, x86.PageSize), "munmap")
}
