package scenarios

import (
	"context"
	"fmt"
	"github.com/cowlab/cowlab/kernel"
	"github.com/cowlab/cowlab/mm/policy"
	"os"
	"testing"
	"time"
)

func TestX(t *testing.T) {
	hosts := kernel.NewHosts()
	names := Names()
	if n := os.Getenv("X"); n != "" {
		names = []string{n}
	}
	for _, n := range names {
		s, err := Lookup(n)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range policy.All() {
			b := time.Now()
			o, err := s.Observe(context.Background(), p, hosts, Strategy{Schedules: 200, Seed: 1})
			if err != nil {
				t.Fatal(err)
			}
			o.WriteText(os.Stdout)
			fmt.Println(time.Since(b))
		}
	}
}
