package spec

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestZZ(t *testing.T) {
	for _, fn := range strings.Fields(os.Getenv("HOLES")) {
		f, _ := os.Open(fn)
		s := bufio.NewScanner(f)
		s.Buffer(nil, 1<<20)
		cnt := map[int]int{}
		for s.Scan() {
			var h struct {
				Policy, Verdict, Detail, Text string
				Kinds                         []string
				Ops, Switches                 int
				Seed                          uint64
			}
			json.Unmarshal(s.Bytes(), &h)
			k := Known(h.Policy, h.Verdict, h.Kinds)
			cnt[k]++
			if k == 0 {
				fmt.Println("NEW", h.Policy, "|", h.Verdict, "|", h.Detail, "|", h.Kinds, h.Ops, h.Switches, h.Seed)
				if os.Getenv("TXT") != "" {
					fmt.Println(strings.Join(strings.Split(h.Text, "\n")[3:], "\n"))
				}
			}
		}
		fmt.Println(fn, cnt)
	}
}
