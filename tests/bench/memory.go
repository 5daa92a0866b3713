package bench

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"

	"github.com/cowlab/cowlab/kernel"
)

// residentBytes returns how much of this program the host holds in memory.
func residentBytes() (uint64, error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("resident memory is only known on Linux: %w", err)
	}
	fields := bytes.Fields(text)
	if len(fields) < 2 {
		return 0, errors.New("/proc/self/statm has no second field")
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	return pages * uint64(os.Getpagesize()), err
}

// hostMemory boots a machine of 1 GiB, lets a process touch most of it, and
// returns how much more than that the host had to give, in per cent.
func hostMemory() (float64, error) {
	const memory, used = 1 << 30, 960 << 20
	hosts := kernel.NewHosts() // pools of its own: recycled memory is resident already
	defer hosts.Close()
	debug.FreeOSMemory()
	before, err := residentBytes()
	if err != nil {
		return 0, err
	}
	m, err := kernel.Boot(kernel.Options{CPUs: 2, Memory: memory, Hosts: hosts})
	if err != nil {
		return 0, err
	}
	defer m.Shutdown()
	var after uint64
	var failed error
	err = m.Run(func(t *kernel.Thread) {
		region(t, used/pageSize)
		after, failed = residentBytes()
	}).Err()
	if err := errors.Join(err, failed); err != nil {
		return 0, err
	}
	return (float64(after) - float64(before) - used) / used * 100, nil
}
