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
	"kosaki_v3 without the count":                    KosakiV3{noCount: true},
	"kosaki_v3 without the test when unmapping":      KosakiV3{noTest: true},
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
	"pg_gup_v1 without the second look at the pte":   PGGUPV1{PGGUP{noRecheck: true}},
	"pg_gup_v1 without the copy at fork":             PGGUPV1{PGGUP{noCopy: true}},
	"vm_dontcow_fixed without the child's copies":    VMDontCOW{Fixed: true, noDecow: true},
	"pg_dontcow_v2 without the copy at fork":         PGDontCOWV2{noDecow: true},
	"directio_sem_v1 without the semaphore":          DirectIOSemV1{noSem: true},
	"wp_page_count without the count":                WPPageCount{noCount: true},
	"wp_page_count_noswap_fixed without the test":    WPPageCountNoSwap{Fixed: true, noTest: true},
	"pinned_ptes_before without the test":            PinnedPTEs{noTest: true},
	"pinned_ptes_after without the test":             PinnedPTEs{After: true, noTest: true},
	"pinned_ptes_after without the count":            PinnedPTEs{After: true, noCount: true},
	"dio_range_lock_fixed without the retry":         DIORangeLock{initInOrder: true, roundDown: true, noRetry: true},
	"dio_range_lock with its rounding alone":         DIORangeLock{initInOrder: true},
	"dio_range_lock with its order alone":            DIORangeLock{roundDown: true},
	"mmap_sem_dio_fixed without the semaphore":       MmapSemDIO{Fixed: true, noSem: true},
	"fork_lock without the lock":                     ForkLock{noLock: true},
	"directed_cow without the direction":             DirectedCOW{noDirect: true},
	"one_read_pin without the record":                OneReadPin{noRecord: true},
	"ksm_fork without the flush":                     KSMFork{noFlush: true},
	"fork_lock_lookup without the lock":              ForkLockLookup{noLock: true},
	"dio_page_multiple without the refusal":          DIOPageMultiple{noRefuse: true},
}

// Rewrite reports whether -rewrite was given.
func Rewrite() bool { return *rewrite }

// Long reports whether -long was given.
func Long() bool { return *long }
