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

	"kosaki_v3 without the semaphore":                KosakiV3{noSem: true},
	"gup_cow_break without the forced write fault":   GUPCowBreak{noForce: true},
	"wp_copy by map count":                           WPCopy{byMapCount: true},
	"pin_copy without the copy at fork":              PinCopy{noCopy: true},
	"anon_exclusive without the copy at fork":        AnonExclusive{noCopy: true},
	"anon_exclusive without the test when unmapping": AnonExclusive{noKeep: true},
	"anon_exclusive without unsharing":               AnonExclusive{noUnshare: true},

	"dio_pin without the copy at fork":               DIOPin{AnonExclusive{later: true, noCopy: true}},
	"mapcount_unshare without unsharing":             MapcountUnshare{noUnshare: true},
	"vm_nocow without the copy at fork":              VMNoCOW{noCopy: true},
	"sentry_pin_copy without the copy at fork":       SentryPinCopy{noCopy: true},
	"sentry_pin_copy without the forced write fault": SentryPinCopy{noBreak: true},
}
