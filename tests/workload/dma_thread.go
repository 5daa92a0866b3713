package workload

import (
	"fmt"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/blk"
	"github.com/cowlab/cowlab/fs"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
)

// dmaThread is Tim LaBerge's dma_thread (thread lines 3604-3860): worker threads read
// neighbouring stretches of a file by O_DIRECT into one buffer while another thread
// keeps forking. With a buffer that is not page aligned two workers share a page; if
// fork write-protects it between their look-ups, one of them reads into a page that
// is no longer the parent's.
func dmaThread() *Workload {
	return withHuge(&Workload{
		Name:  "dma_thread",
		Title: "threads read a file by O_DIRECT into one buffer while another thread forks",
		Group: ForwardRace,
		Lines: "3604-3860",
		Params: []Param{
			{Name: "a", Usage: "offset of the buffer from a page boundary, in bytes; 512 makes neighbours share pages, 0 does not",
				Default: 512, Small: 512, Max: x86.PageSize, Multiple: x86.SectorSize},
			{Name: "w", Usage: "worker threads", Default: 40, Small: 2, Min: 2, Max: 256, Amount: true},
			{Name: "files", Usage: "files to read, one after another", Default: 12, Small: 1, Min: 1, Max: 250, Amount: true},
			{Name: "filesize", Usage: "bytes of each file", Default: 4 << 20, Small: 2 * x86.PageSize, Min: x86.PageSize, Max: 1 << 32, Multiple: x86.PageSize, Amount: true},
			{Name: "readsize", Usage: "bytes read in each round, by all workers together", Default: 1 << 20, Small: 2 * x86.PageSize, Min: 2 * x86.PageSize, Max: 1 << 30, Multiple: x86.PageSize, Amount: true},
			{Name: "forks", Usage: "forks in each round; 0 means until the round is over", Default: 0, Small: 2, Max: 1 << 20, Amount: true},
		},
		Variants: []string{"", "a=0"},
		Valid: func(v Values) error {
			if v["readsize"] < v["w"]*x86.PageSize {
				return fmt.Errorf("dma_thread: %d workers read a page each, so readsize must be at least %d", v["w"], v["w"]*x86.PageSize)
			}
			if v["filesize"]%v["readsize"] != 0 {
				return fmt.Errorf("dma_thread: filesize %d must be a multiple of readsize %d", v["filesize"], v["readsize"])
			}
			if v["files"] > dmaThreadDisk/v["filesize"] {
				return fmt.Errorf("dma_thread: %d files of %d bytes are more than the disk may have, %d", v["files"], v["filesize"], dmaThreadDisk)
			}
			return nil
		},
		Needs:  mm.Forward,
		Memory: func(v Values) uint64 { return uint64(v["readsize"])*4 + 8<<20 },
		CPUs:   4, SmallCPUs: 2,
		Latency:   blk.FastDevice,
		DiskBytes: func(v Values) int64 { return v["files"] * v["filesize"] },
		Fill: func(v Values, disk []byte) {
			// File n is filled with byte n.
			for n := range v["files"] {
				b := disk[n*v["filesize"] : (n+1)*v["filesize"]]
				for i := range b {
					b[i] = byte(n + 1)
				}
			}
		},
		Main: dmaThreadMain,
	}, func(v Values) int64 { return v["readsize"]>>x86.PageShift + 1 }, "huge=1,a=0")
}

// dmaThreadDisk bounds all files together: the host holds them in memory, twice.
const dmaThreadDisk = 1 << 30

// pattern is what dma_thread fills its buffer with before each round.
const pattern = 0xfa

func dmaThreadMain(t *kernel.Thread, r *Run) {
	v := r.Values
	readsize, align, workers := uint64(v["readsize"]), uint64(v["a"]), v.Int("w")
	fd, err := t.Open(r.Disk, fs.ORdonly|fs.ODirect)
	if r.failed(err, "open") {
		return
	}
	buffer := r.mapBuffer(t, readsize+align)
	done := t.MustMmap(x86.PageSize)
	r.begin()
	for n := range v["files"] {
		for off := int64(0); off < v["filesize"] && !r.over(); off += int64(readsize) {
			t.Fill(buffer, readsize+align, pattern)
			t.Store32(done, 0)
			forker := t.Go("forker", func(t *kernel.Thread) { dmaForker(t, r, done) })
			var readers []*kernel.Thread
			for j := range workers {
				w := dmaWorker{
					fd: fd, file: n + 1, base: n * v["filesize"],
					offset: off + int64(j)*x86.PageSize,
					buffer: buffer + align + uint64(j)*x86.PageSize,
					length: x86.PageSize,
				}
				if j == workers-1 {
					// The last worker reads whatever is left over.
					w.length = int(readsize) - x86.PageSize*(workers-1)
				}
				readers = append(readers, t.Go(fmt.Sprint("worker", j), func(t *kernel.Thread) { w.run(t, r) }))
			}
			for _, w := range readers {
				r.failed(t.Join(w), "join")
			}
			t.Store32(done, 1)
			r.failed(t.Join(forker), "join")
		}
	}
	r.failed(t.Close(fd), "close")
}

// dmaForker forks children that exit at once, until the round is over.
func dmaForker(t *kernel.Thread, r *Run, done uint64) {
	limit := r.Values["forks"]
	for i := int64(0); (limit == 0 || i < limit) && t.Load32(done) == 0; i++ {
		pid, err := t.Fork(func(c *kernel.Thread) { c.Exit(0) })
		if r.failed(err, "fork") {
			return
		}
		if _, _, err := t.Wait(pid); r.failed(err, "wait") {
			return
		}
		t.Usleep(100)
	}
}

// dmaWorker is one reader: it reads its stretch and checks every byte.
type dmaWorker struct {
	fd           int
	file         int64 // number of the file, from 1
	base, offset int64 // where the file begins on the disk, and the stretch in the file
	buffer       uint64
	length       int
}

func (w *dmaWorker) run(t *kernel.Thread, r *Run) {
	n, err := t.Pread(w.fd, w.buffer, w.length, w.base+w.offset)
	if r.failed(err, "read") {
		return
	}
	if n != w.length {
		r.broken(fmt.Sprintf("read of %d bytes returned %d", w.length, n))
		return
	}
	r.compare(LostRead, fmt.Sprintf("file %d", w.file), w.offset, r.expect(w.base+w.offset, w.length), t.Bytes(w.buffer, w.length))
}
