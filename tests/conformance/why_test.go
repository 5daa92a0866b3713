package conformance

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/policy"
)

// TestWhyIsTheCause checks the lines that explain stock's failing cells: under a policy that
// decides that step otherwise the cell passes, and under one that decides another step
// otherwise (not), where there is one so near, it does not.
func TestWhyIsTheCause(t *testing.T) {
	hosts := kernel.NewHosts()
	defer hosts.Close()
	for _, x := range []struct{ id, kind, step, policy, not string }{
		{"cow 3", "base", "do_wp_page: reuse_swap_page counts one mapping", "wp_page_count", "directed_cow"},
		{"cow 3", "swap", "do_swap_page finds the page in the swap cache, and reuse_swap_page", "wp_page_count_reuse", "wp_page_count"},
		{"cow 5", "swap", "in the child, do_wp_page: reuse_swap_page", "wp_page_count", "gup_cow_break"},
		{"cow 8", "base", "copy_one_pte write-protects the pinned page and shares it", "pin_copy", "gup_cow_break"},
		{"cow 8", "hugetlb2M", "copy_hugetlb_page_range write-protects the pinned page", "pg_gup", "pin_copy"},
		{"cow 9", "base", "follow_page takes the page as it is, shared and read-only", "gup_cow_break", "pin_copy"},
		{"cow 9", "swap", "do_swap_page maps the page read-only for the pin", "gup_cow_break", "one_read_pin"},
		{"cow 10", "base", "gup_pte_range wants PRESENT and USER only", "gup_cow_break", "pin_copy"},
		{"cow 7", "hugetlb2M", "hugetlb_cow re-uses a page only if page_count is 1", "anon_exclusive", "gup_cow_break"},
		{"non-anon 2", "shmem", "follow_page takes the page of the page cache", "gup_cow_break", "anon_exclusive"},
		{"non-anon 3", "hugetlbfs2M", "gup_huge_pmd takes the page of the page cache", "gup_cow_break", "anon_exclusive"},
		{"pin 2", "base", "follow_page has FOLL_ANON and hands out ZERO_PAGE", "gup_cow_break", "pin_copy"},
		{"pin 2", "hugetlb2M", "follow_hugetlb_page hands out ZERO_PAGE", "pg_gup", "anon_exclusive"},
	} {
		c := Match(All(), x.id)[0]
		var k *Kind
		for _, kind := range Kinds() {
			if kind.Name == x.kind {
				k = kind
			}
		}
		require.Contains(t, c.Expect(x.kind), x.step, "%s on %s", x.id, x.kind)
		for name, passes := range map[string]bool{"stock": false, x.policy: true, x.not: false} {
			r, err := Execute(t.Context(), c, k, timed(policy.Lookup(name), hosts))
			require.NoError(t, err)
			assert.Equal(t, passes, r.Verdict == Pass, "%s on %s under %s: %s", x.id, x.kind, name, r)
		}
	}
}

// TestWhyInJSON: the explanation of a failing cell of stock is in the JSON, and nowhere else.
func TestWhyInJSON(t *testing.T) {
	o := Options{Policies: []mm.Policy{policy.Lookup("stock"), policy.Lookup("directed_cow"), policy.Lookup("wp_page_count")},
		Cases: Match(All(), "cow 3"), Kinds: Kinds()[:1]}
	table, err := Run(t.Context(), o)
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, table.WriteJSON(&b))
	assert.Equal(t, 1, strings.Count(b.String(), `"why"`))
	back, err := ReadJSON(&b)
	require.NoError(t, err)
	assert.Equal(t, reuses, back.Cells[0].Why)
	assert.Equal(t, Fail, back.Cells[1].Verdict)
}
