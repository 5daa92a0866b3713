package x86

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
)

func TestHostMemory(t *testing.T) {
	const gib = 1 << 30
	meminfo := "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"
	for name, tc := range map[string]struct {
		files            map[string]string
		total, available uint64
	}{
		"nothing to see": {nil, 4 * gib, 4 * gib},
		"bare host":      {map[string]string{"proc/meminfo": meminfo}, 16 * gib, 8 * gib},
		"old kernel": {map[string]string{"proc/meminfo": "MemTotal: 16777216 kB\nMemFree: 1048576 kB\n"},
			16 * gib, 8 * gib},
		"no limit": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max": "max\n"}, 16 * gib, 8 * gib},
		"v2": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/b/memory.max":     "4294967296\n",
			"sys/fs/cgroup/a/b/memory.current": "1073741824\n"}, 4 * gib, 3 * gib},
		"v2 ancestor": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/a/b\n",
			"sys/fs/cgroup/a/memory.max":     "2147483648\n",
			"sys/fs/cgroup/a/memory.current": "1073741824\n"}, 2 * gib, 1 * gib},
		"v2 container": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "1073741824\n"}, 1 * gib, 1 * gib},
		"over the limit": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "0::/\n",
			"sys/fs/cgroup/memory.max": "1073741824\n", "sys/fs/cgroup/memory.current": "2147483648\n"}, 1 * gib, 0},
		"v1": {map[string]string{"proc/meminfo": meminfo, "proc/self/cgroup": "4:cpu,memory:/x\n3:cpuset:/y\n",
			"sys/fs/cgroup/memory/x/memory.limit_in_bytes": "4294967296\n",
			"sys/fs/cgroup/memory/x/memory.usage_in_bytes": "4294967295\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":   "9223372036854771712\n"}, 4 * gib, 1},
	} {
		root := fstest.MapFS{}
		for f, s := range tc.files {
			root[f] = &fstest.MapFile{Data: []byte(s)}
		}
		total, available := readHostMemory(root)
		assert.Equal(t, []uint64{tc.total, tc.available}, []uint64{total, available}, name)
	}
	total, available := hostMemory()
	assert.NotZero(t, total)
	assert.LessOrEqual(t, available, total)
}
