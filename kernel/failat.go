package kernel

import (
	"maps"
	"slices"
)

// Allocations that are made to fail. Every place where the kernel asks for memory and where
// Linux has a way to go on without has a name, its site: "do_wp_page" for the page that
// do_wp_page copies to, "vm_area_struct" for each VMA that is made. What is no memory of the
// emulated machine, because it is a Go object here, has a site all the same if Linux may
// fail there.
//
// No sites have what cannot fail in Linux either: bios, which come from a mempool and are
// waited for; the list of a process's children; wait-queue entries and direct I/O's page
// array, which lie on stacks or in something that has a site.

// CountAllocs begins to count allocations by site, for AllocSites. Nothing may be running.
func (m *Machine) CountAllocs() { m.pages.CountSites() }

// FailAt makes the nth allocation (from 1) that site asks for from now on fail, or all from
// the -nth on if nth is negative. Site "" is all sites together. The system call then
// returns what Linux' would, or a page fault ends the process. Nothing may be running.
//
//	m.FailAt("vm_area_struct", 3) // the third VMA cannot be had
//	m.FailAt("do_wp_page", -1)    // no page is copied any more
func (m *Machine) FailAt(site string, nth int) { m.pages.FailAt(site, nth) }

// FailNever takes all FailAt back.
func (m *Machine) FailNever() { m.pages.FailNever() }

// AllocSites returns the sites that have asked for memory since CountAllocs or the first
// FailAt, in alphabetical order, and how often each has. Run a program once to learn which
// sites it has, and then once for each.
func (m *Machine) AllocSites() (names []string, calls map[string]int) {
	calls = m.pages.SiteCounts()
	delete(calls, "")
	return slices.Sorted(maps.Keys(calls)), calls
}
