package conformance

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/trace"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// A case finds its memory in the state that the kind promises: pages of it on the device,
// in the swap cache, or mapped, and read from the device when they are touched.
func TestKindsAreWhatTheySay(t *testing.T) {
	type state struct {
		swapped bool
		cached  uint64 // pages in the swap cache
		reads   uint64 // from the device when it is touched
		anon    bool   // and then it is an anonymous page
	}
	for _, k := range here(t) {
		want, known := map[string]state{
			"base":      {anon: true},
			"swap":      {swapped: true, reads: 3, anon: true},
			"swapcache": {swapped: true, cached: 3, anon: true},
			"zero":      {anon: true},
			"shmem":     {},
		}[k.Name]
		if !known {
			continue // a kind whose memory is made elsewhere
		}
		var got state
		probe := &Case{Name: "probe: ", Pages: 3, Run: func(e *Env) {
			sys := e.Machine().MM()
			got.swapped, got.cached = swapped(e.Thread, e.Mem, e.Size), sys.SwapCachePages()
			before := e.count(trace.PSwpIn)
			value := byte(oldByte)
			if k.Name == "zero" {
				value = 0
			}
			for _, b := range e.look(e.Thread, e.Mem) {
				assert.Equal(t, value, b)
			}
			got.reads = e.count(trace.PSwpIn) - before
			es, err := e.Pagemap(e.Mem, e.Size)
			e.must("pagemap", err)
			for _, p := range es {
				got.anon = e.Machine().Pages().Page(p.PFN()).Anon()
			}
			assert.Equal(t, 3*x86.PageSize, int(e.Size))
		}}
		r, err := Execute(t.Context(), probe, k, timed(nil, nil))
		require.NoError(t, err)
		require.Equal(t, Result{Pass, ""}, r, k.Name)
		assert.Equal(t, want, got, k.Name)
	}
}

// pageCount is Linux 5.9's rule in do_wp_page: a page is re-used only if nobody but its
// mapping has a reference.
type pageCount struct{ mm.Stock }

func (pageCount) Name() string      { return "page_count" }
func (pageCount) Hooks() mm.HookSet { return mm.HookWP }
func (pageCount) WP(f *mm.Fault) mm.WPNext {
	if f.MM.Sys.Pages.Refs(f.T, f.Page) != 1 {
		return mm.WPCopyPage
	}
	return f.LockAndReuse()
}

// Arcangeli's reproducers were written against that rule, and see it here, with swap and
// without; so do the cases of cow.c that came of it. What discloses memory no longer does.
func TestReproducersSeePageCount(t *testing.T) {
	for _, c := range []struct {
		glob string
		want map[string]string // by kind
	}{
		{"page_count_do_wp_page", map[string]string{"base": "fail", "swap": "fail", "swapcache": "fail"}},
		{"page_count_do_wp_page, a driver's pin", map[string]string{"base": "fail", "swap": "fail", "swapcache": "fail"}},
		{"page_count_do_wp_page-swap", map[string]string{"base": "fail", "swap": "fail", "swapcache": "fail"}},
		{"io_uring_swap", map[string]string{"base": "fail", "swap": "fail", "swapcache": "fail"}},
		{"vfio_swap", map[string]string{"base": "fail", "swap": "fail", "swapcache": "fail"}},
		{"cow 7", map[string]string{"base": "fail"}},
		{"cow 13", map[string]string{"base": "fail", "swap": "fail"}},
		{"cow 3", map[string]string{"base": "pass"}},
		{"vmsplice-v5.11", map[string]string{"base": "pass"}},
	} {
		cases := Match(All(), c.glob)
		require.Len(t, cases, 1, c.glob)
		for _, k := range here(t) {
			if want, ok := c.want[k.Name]; ok {
				r, err := Execute(t.Context(), cases[0], k, timed(pageCount{}, nil))
				require.NoError(t, err)
				assert.Equal(t, want, string(r.Verdict), "%s on %s: %s", cases[0].Name, k.Name, r.Detail)
			}
		}
	}
}

// A finding of docs/findings.md: the marks of pg_gup and of pg_dontcow are for anonymous pages, so a pin for
// reading in a private mapping of a file gets the file's page, not the process's.
func TestReadPinsOfPrivateFiles(t *testing.T) {
	cases := Match(All(), "non-anon ?")
	require.Len(t, cases, 3)
	for name, want := range map[string][2]string{
		"pg_gup": {"fail", "fail"}, "pg_dontcow": {"pass", "fail"}, "directio_sem": {"fail", "pass"},
	} {
		for _, k := range here(t) {
			if k.Name != "shmem" {
				continue
			}
			for i, c := range cases[1:] {
				r, err := Execute(t.Context(), c, k, timed(policy.Lookup(name), nil))
				require.NoError(t, err)
				assert.Equal(t, want[i], string(r.Verdict), "%s under %s: %s", c.Name, name, r.Detail)
			}
		}
	}
}

// Memory that cannot be had breaks a case, and says which call it was.
func TestKindWithoutMemory(t *testing.T) {
	k := &Kind{Name: "none", Size: x86.PageSize, Map: func(e *Env, _ uint64) uint64 {
		a, err := e.Mmap(0, 0, rw, private, -1, 0)
		e.must("mmap", err)
		return a
	}}
	r, err := Execute(t.Context(), All()[0], k, timed(nil, nil))
	require.NoError(t, err)
	assert.Equal(t, Result{Broken, "mmap: invalid argument"}, r)
}
