package policy

import "github.com/cowlab/cowlab/mm"

// Stock is row 0: Linux 2.6.29 as it was.
type Stock struct{ mm.Stock }

// About implements mm.Policy.
func (Stock) About() mm.About {
	return mm.About{
		Row: 0, Title: "Linux 2.6.29, unchanged", Who: "-", When: "March 2009", Lines: "-",
		Changes: []string{
			"fork: write-protects and shares every private page, whoever has a reference to it",
			"get_user_pages: a read pin takes the page as it is; a write pin breaks COW",
			"gup-fast: PRESENT and USER, and RW when writing; nothing is looked at again",
			"COW fault: reuses the page when map count plus swap count is 1; references do not count",
		},
		Claims: "nothing about fork and pins",
		Open:   "the forward race loses reads, the reverse race leaks into files, a read pin discloses later stores",
	}
}

// All returns every policy, in the order of their rows.
func All() []mm.Policy {
	return []mm.Policy{
		Stock{},                        // 0
		PGGUPV1{},                      // 1
		PGGUP{},                        // 2
		VMDontCOW{},                    // 3
		VMDontCOW{Fixed: true},         //
		VMDontCOW{Amended: true},       //
		PGDontCOWV2{},                  // 4
		PGDontCOW{},                    // 5
		DirectIOSemV1{},                // 6
		WPPageCount{},                  // 7
		WPPageCountReuse{},             //
		PinReferenced{},                //
		WPPageCountNoSwap{},            // 8
		WPPageCountNoSwap{Fixed: true}, //
		PinnedPTEs{},                   // 9
		PinnedPTEs{After: true},        //
		DirectIOSem{},                  // 10
		DIORangeLock{},                 // 11
		DIORangeLockFixed(),            //
		MmapSemDIO{},                   // 12
		MmapSemDIO{Fixed: true},        //
		ForkLock{},                     // 13
		DirectedCOW{},                  // 14
		WarnOnce{},                     // 15
		// Ideas of the thread that never became a patch.
		KSMFork{}, ForkLockLookup{}, DIOPageMultiple{}, OneReadPin{},
		// What came later.
		KosakiV3{}, GUPCowBreak{}, WPCopy{}, PinCopy{}, AnonExclusive{}, NewDIOPin(), MapcountUnshare{}, VMNoCOW{}, SentryPinCopy{},
	}
}

// Lookup returns the policy with the given name, nil if there is none.
func Lookup(name string) mm.Policy {
	for _, p := range All() {
		if p.Name() == name {
			return p
		}
	}
	return nil
}
