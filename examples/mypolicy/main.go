// Command mypolicy is the cowlab command with one more policy: what a third party writes to
// try an idea.
//
//	go run ./examples/mypolicy list
//	go run ./examples/mypolicy matrix -policies count_copy -parallel 0
//
// The table shows what the idea is worth. dma_thread and forkscrew are safe. In
// forkscrewreverse the child's bytes reach the file, since nothing is done about a page that
// is pinned when it is already shared. And in a few schedules of pin_fork data is lost:
// gup-fast takes no lock and comes between fork's look at the counts and its write
// protection. The verb replay with -min draws how.
package main

import (
	"os"

	"github.com/cowlab/cowlab/cmd/cli"
	"github.com/cowlab/cowlab/mm/policy"
)

func main() { os.Exit(cli.Main(append(policy.All(), countCopy{}))) }
