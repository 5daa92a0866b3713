package policy

import "github.com/cowlab/cowlab/mm"

// Mutants are the policies less their deciding lines.
var Mutants = map[string]mm.Policy{
	"pg_gup without the second look at the pte":   PGGUP{noRecheck: true},
	"pg_gup without the copy at fork":             PGGUP{noCopy: true},
	"pg_dontcow without the copy at fork":         PGDontCOW{noDecow: true},
	"directio_sem without the semaphore":          DirectIOSem{noSem: true},
	"pg_gup without the forced write fault":       PGGUP{noForce: true},
	"pg_dontcow without the forced write fault":   PGDontCOW{noForce: true},
	"directio_sem without the forced write fault": DirectIOSem{noForce: true},
}

// Rewrite reports whether -rewrite was given.
func Rewrite() bool { return *rewrite }
