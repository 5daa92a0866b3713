package x86

import (
	"bufio"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// hostMemory returns what the host has and what of it is free to use, in bytes.
func hostMemory() (total, available uint64) { return readHostMemory(os.DirFS("/")) }

// readHostMemory works on a root directory so that it can be tested. The total
// is the least of MemTotal and the memory limits of our control groups (both
// hierarchy versions, every ancestor); available likewise, less what the group
// uses already.
func readHostMemory(root fs.FS) (total, available uint64) {
	total, available = meminfo(root)
	clamp := func(limit, usage uint64) {
		total = min(total, limit)
		available = min(available, limit-min(limit, usage))
	}
	for _, g := range controlGroups(root) {
		// Inside a container the group's path may not be visible from the
		// mount, but an ancestor is; the mount's root always is.
		for dir := g.path; ; dir = path.Dir(dir) {
			at := path.Join(g.mount, dir)
			if limit, ok := readNumber(root, path.Join(at, g.limit)); ok {
				usage, _ := readNumber(root, path.Join(at, g.usage))
				clamp(limit, usage)
			}
			if dir == "/" || dir == "." || dir == "" {
				break
			}
		}
	}
	return total, available
}

// meminfo reads /proc/meminfo; a host that hides it is taken to have 4 GiB.
func meminfo(root fs.FS) (total, available uint64) {
	const unknown = 4 << 30
	total, available = unknown, unknown
	f, err := root.Open("proc/meminfo")
	if err != nil {
		return total, available
	}
	defer f.Close()
	free := uint64(0)
	sawAvailable := false
	for sc := bufio.NewScanner(f); sc.Scan(); {
		name, rest, _ := strings.Cut(sc.Text(), ":")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		kib, err := strconv.ParseUint(fields[0], 10, 54)
		if err != nil {
			continue
		}
		switch name {
		case "MemTotal":
			total = kib << 10
		case "MemFree":
			free = kib << 10
		case "MemAvailable":
			available, sawAvailable = kib<<10, true
		}
	}
	if !sawAvailable { // Linux before 3.14
		available = max(free, total/2)
	}
	return total, min(available, total)
}

// controlGroup says where a memory controller's files are, relative to the root.
type controlGroup struct{ mount, path, limit, usage string }

// controlGroups lists our groups from /proc/self/cgroup.
func controlGroups(root fs.FS) []controlGroup {
	var groups []controlGroup
	b, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		switch {
		case f[0] == "0" && f[1] == "":
			groups = append(groups, controlGroup{"sys/fs/cgroup", f[2], "memory.max", "memory.current"})
		case hasController(f[1], "memory"):
			groups = append(groups, controlGroup{"sys/fs/cgroup/memory", f[2],
				"memory.limit_in_bytes", "memory.usage_in_bytes"})
		}
	}
	return groups
}

func hasController(list, name string) bool {
	for c := range strings.SplitSeq(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

// readNumber reads a file that holds one number; "max" and a missing file are
// no number.
func readNumber(root fs.FS, name string) (uint64, bool) {
	b, err := fs.ReadFile(root, strings.TrimPrefix(name, "/"))
	if err != nil {
		return 0, false
	}
	v, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return v, err == nil
}
