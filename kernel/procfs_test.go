//go:build linux

package kernel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/procfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
)

// The text of /proc as a parser of real ones reads it.
func TestProcfsParsesBack(t *testing.T) {
	var maps, smaps string
	var addr uint64
	m := boot(t, Options{CPUs: 2, Regime: sched.Timed, Memory: 16 << 20})
	var mem string
	var stat strings.Builder
	out := m.Run(func(th *Thread) {
		addr = th.MustMmap(16 * 4096)
		th.Fill(addr, 8*4096, 1)
		_, _ = th.Sbrk(8192)
		pid, err := th.Fork(func(c *Thread) {
			c.Fill(addr, 4096, 2)
			forever(c)
		})
		require.NoError(t, err)
		th.Usleep(50)
		maps, smaps = th.Maps(), th.Smaps()
		mem = m.Meminfo()
		require.NoError(t, m.VMStat(&stat, true /* emu */))
		_ = th.Kill(pid, SIGKILL)
		_, _, _ = th.Wait(pid)
	})
	require.NoError(t, out.Err())

	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "1"), 0o700))
	for name, text := range map[string]string{"1/maps": maps, "1/smaps": smaps, "meminfo": mem} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	fs, err := procfs.NewFS(dir)
	require.NoError(t, err)
	p, err := fs.Proc(1)
	require.NoError(t, err)
	pm, err := p.ProcMaps()
	require.NoError(t, err)
	require.Len(t, pm, 3)
	assert.Equal(t, "[heap]", pm[0].Pathname)
	assert.Equal(t, uintptr(addr), pm[1].StartAddr)
	assert.True(t, pm[1].Perms.Write && pm[1].Perms.Private && !pm[1].Perms.Execute)
	assert.Equal(t, "[stack]", pm[2].Pathname)
	s, err := p.ProcSMapsRollup()
	require.NoError(t, err)
	assert.EqualValues(t, 8*4096, s.Rss)
	assert.EqualValues(t, 7*4096, s.SharedClean+s.SharedDirty)
	assert.EqualValues(t, 4096, s.PrivateClean+s.PrivateDirty)
	assert.EqualValues(t, 7*4096/2+4096, s.Pss)
	mi, err := fs.Meminfo()
	require.NoError(t, err)
	assert.EqualValues(t, 16<<10, *mi.MemTotal)
	assert.EqualValues(t, 9*4, *mi.AnonPages)
	assert.Less(t, *mi.MemFree, *mi.MemTotal)
	assert.Greater(t, *mi.PageTables, uint64(0))
	assert.Contains(t, stat.String(), "nr_anon_pages 9\n")
	assert.Contains(t, stat.String(), "emu_fork 1\n")

	_, err = m.Maps(1)
	assert.ErrorIs(t, err, unix.ESRCH)
}

func TestProcfsOfASleepingProcess(t *testing.T) {
	m := boot(t, Options{CPUs: 1})
	out := m.Run(func(th *Thread) {
		a := th.MustMmap(8192)
		th.Store8(a, 1)
		require.NoError(t, th.Mprotect(a+4096, 4096, mm.ProtNone))
		_ = th.FutexWait(a+4, 0, 0, 0)
	})
	assert.Equal(t, sched.Deadlock, out.Reason)
	text, err := m.Maps(1)
	require.NoError(t, err)
	assert.Equal(t, 3, strings.Count(text, "\n"), text)
	text, err = m.Smaps(1)
	require.NoError(t, err)
	assert.Contains(t, text, "Private_Dirty:         4 kB\n")
}
