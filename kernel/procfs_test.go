//go:build linux

package kernel

import (
	"os"
	"path/filepath"
	"slices"
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

// The names that /proc/vmstat and /proc/meminfo have in 2.6.29 on x86-64 without NUMA, in
// their order (mm/vmstat.c, fs/proc/meminfo.c).
func TestProcfsHasTheKernelsNames(t *testing.T) {
	m := boot(t, Options{CPUs: 1, Regime: sched.Timed})
	require.NoError(t, m.Run(func(*Thread) {}).Err())
	var stat strings.Builder
	require.NoError(t, m.VMStat(&stat, false /* emu */))
	var got []string
	for line := range strings.Lines(stat.String()) {
		name, _, _ := strings.Cut(line, " ")
		got = append(got, name)
	}
	zones := func(names ...string) (out []string) {
		for _, n := range names {
			out = append(out, n+"_dma", n+"_dma32", n+"_normal", n+"_movable")
		}
		return out
	}
	assert.Equal(t, slices.Concat(
		strings.Fields(`nr_free_pages nr_inactive_anon nr_active_anon nr_inactive_file nr_active_file nr_unevictable
			nr_mlock nr_anon_pages nr_mapped nr_file_pages nr_dirty nr_writeback nr_slab_reclaimable nr_slab_unreclaimable
			nr_page_table_pages nr_unstable nr_bounce nr_vmscan_write nr_writeback_temp pgpgin pgpgout pswpin pswpout`),
		zones("pgalloc"), strings.Fields("pgfree pgactivate pgdeactivate pgfault pgmajfault"),
		zones("pgrefill", "pgsteal", "pgscan_kswapd", "pgscan_direct"),
		strings.Fields(`pginodesteal slabs_scanned kswapd_steal kswapd_inodesteal pageoutrun allocstall pgrotated
			htlb_buddy_alloc_success htlb_buddy_alloc_fail unevictable_pgs_culled unevictable_pgs_scanned unevictable_pgs_rescued
			unevictable_pgs_mlocked unevictable_pgs_munlocked unevictable_pgs_cleared unevictable_pgs_stranded unevictable_pgs_mlockfreed`),
	), got)

	got = nil
	for line := range strings.Lines(m.Meminfo()) {
		name, _, _ := strings.Cut(line, ":")
		got = append(got, name)
	}
	assert.Equal(t, strings.Fields(`MemTotal MemFree Buffers Cached SwapCached Active Inactive Active(anon) Inactive(anon)
		Active(file) Inactive(file) Unevictable Mlocked SwapTotal SwapFree Dirty Writeback AnonPages Mapped Slab SReclaimable
		SUnreclaim PageTables NFS_Unstable Bounce WritebackTmp CommitLimit Committed_AS VmallocTotal VmallocUsed VmallocChunk
		HugePages_Total HugePages_Free HugePages_Rsvd HugePages_Surp Hugepagesize DirectMap4k DirectMap2M`), got)
}
