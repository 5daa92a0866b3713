package cli

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
)

// A token ends in the same state a hundred times in this process, and in other processes,
// whatever the number of host threads.
func TestTokensRepeat(t *testing.T) {
	t.Parallel()
	for _, tok := range []explore.Token{
		{Target: "forkscrew", Policy: "stock", Spec: explore.Spec{Kind: explore.KindRandom, Seed: 5}},
		{Target: "dma_thread", Policy: "pg_gup", Spec: explore.Spec{Kind: explore.KindPCT, Depth: 3, Length: 1000, Seed: 7}},
		{Target: "vmsplice", Policy: "pg_dontcow", Params: []explore.Param{{Key: "side", Value: "3"}}, Spec: explore.Spec{Kind: explore.KindRandom, Seed: 9}},
		{Target: "pin_fork", Policy: "directio_sem", Spec: explore.Spec{Kind: explore.KindSwitches, Switches: []explore.Switch{{At: 30, To: explore.CPUActor(1)}}}},
	} {
		e, _, _ := newEnv()
		s, err := e.openSchedule(tok.String(), "", 0)
		require.NoError(t, err)
		first := s.target.Run(tok.Spec.Strategy(), nil)
		for range 99 {
			again := s.target.Run(tok.Spec.Strategy(), nil)
			require.Equal(t, first.State, again.State, "%s", tok)
			require.Equal(t, first.Verdict, again.Verdict)
		}
		s.close()
		for _, procs := range []int{1, 2} {
			cmd := exec.Command("cowlab", "replay", tok.String(), "-diagram=false")
			cmd.Env = append(os.Environ(), fmt.Sprint("GOMAXPROCS=", procs))
			out, err := cmd.Output()
			require.NoError(t, err)
			m := regexp.MustCompile(`state ([0-9a-f]+)\n`).FindSubmatch(out)
			require.NotNil(t, m, "%s", out)
			assert.Equal(t, fmt.Sprintf("%016x", first.State), string(m[1]), "%s with GOMAXPROCS=%d", tok, procs)
		}
	}
}
