package spec

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGenerateParses(t *testing.T) {
	vague, n, racing, terms := map[string]int{}, 0, 0, 0
	for seed := range uint64(5000) {
		s, err := Generate(seed)
		require.NoError(t, err)
		m := NewModel(s)
		if m.Vague != "" {
			vague[m.Vague]++
			n++
		}
		for _, x := range m.Terms {
			terms++
			if x.Racing() {
				racing++
			}
		}
		if seed < 3 {
			t.Log(s.Print())
			for _, x := range m.Terms {
				t.Log(x.Text, x.Allowed)
			}
		}
	}
	t.Log(n, racing, terms)
	for v, n := range vague {
		t.Log(n, v)
	}
}
