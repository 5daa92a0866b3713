// Command cowlab runs the fixes for "fork against get_user_pages" side by side on an
// emulated Linux VM; see cowlab -h.
package main

import (
	"os"

	"github.com/cowlab/cowlab/cmd/cli"
	"github.com/cowlab/cowlab/mm/policy"
)

func main() { os.Exit(cli.Main(policy.All())) }
