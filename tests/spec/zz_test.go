package spec

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"strings"
	"testing"
)

func TestZZ(t *testing.T) {
	met := map[int]map[string]int{}
	least := map[int]string{}
	sz := map[int]int{}
	for _, fn := range strings.Fields(os.Getenv("HOLES")) {
		f, _ := os.Open(fn)
		s := bufio.NewScanner(f)
		s.Buffer(nil, 1<<20)
		for s.Scan() {
			var h struct {
				Policy, Verdict, Detail, Text string
				Kinds                         []string
				Ops, Switches                 int
				Seed                          uint64
			}
			json.Unmarshal(s.Bytes(), &h)
			k := Known(h.Policy, h.Verdict, h.Kinds)
			if met[k] == nil {
				met[k] = map[string]int{}
				sz[k] = 99
			}
			met[k][h.Policy]++
			if h.Ops < sz[k] {
				sz[k] = h.Ops
				least[k] = fmt.Sprint(h.Policy, h.Kinds)
			}
			if k == 0 && os.Getenv("TXT") != "" {
				fmt.Println("NEW", fn, h.Policy, "|", h.Verdict, "|", h.Detail, "|", h.Kinds, h.Ops, h.Switches, h.Seed)
				if os.Getenv("TXT") == "2" {
					fmt.Println(strings.Join(strings.Split(h.Text, "\n")[3:], "\n"))
				}
			}
		}
	}
	var ks []int
	for k := range met {
		ks = append(ks, k)
	}
	sort.Ints(ks)
	for _, k := range ks {
		fmt.Println(k, met[k], least[k])
	}
}
