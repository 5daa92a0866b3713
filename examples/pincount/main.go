// Command pincount is the cowlab command with one more policy, pin_count, which is in
// policy.go; policy_test.go tests that it is one.
//
//	go run ./examples/pincount matrix -policies pg_gup,pin_count -costs -parallel 0
package main

import (
	"os"

	"github.com/cowlab/cowlab/cmd/cli"
	"github.com/cowlab/cowlab/mm/policy"
)

func main() { os.Exit(cli.Main(append(policy.All(), pinCount{}))) }
