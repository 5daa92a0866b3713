package spec

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
	"github.com/cowlab/cowlab/kernel/sched"
	"github.com/cowlab/cowlab/mm"
	"github.com/cowlab/cowlab/mm/page"
)

// A deed is what the kernel did in a run to a page that somebody had pinned, or had in a pipe: the step by
// which a page and its user part. Two holes with the same verdict in the same kind of program
// differ by it.
type deed string

// The deeds.
const (
	swapInTakes   deed = "a store brings a pinned page back from swap, writable"
	cowTakes      deed = "a store makes a pinned page writable"
	cowCopies     deed = "a store copies a pinned page"
	forkShares    deed = "fork shares a pinned page"
	forkSharesRO  deed = "fork shares a pinned page that was read-only"
	reclaimUnmaps deed = "reclaim unmaps a pinned page"
)

// inUse marks in a description that a page has users besides ptes and caches. What vmsplice has put into
// a pipe is held as by any pin.
const inUse = " in use"

// deeds runs a schedule once more and lists what was done to pinned pages, each once.
func deeds(t *explore.Target, s explore.Spec) []deed {
	return deedsOf(explore.Capture(*t, s, explore.CaptureOptions{Describe: describe, Funcs: mm.KernelNames()}))
}

// describe says what an entry of a last-level table holds, and whether that is pinned.
func describe(m *sched.Machine, o x86.ObjID) string {
	if o.Class() != x86.ClassPTE {
		return ""
	}
	sys := mm.OfMachine(m)
	id, level, va := x86.SplitPTEObj(o)
	if level != x86.LevelPTE {
		return ""
	}
	e := sys.PeekPTEOf(id, va)
	switch {
	case e.IsSwap():
		return "swap"
	case !e.Present():
		return ""
	}
	text := fmt.Sprintf("page %d RO", e.PFN())
	if e.Write() {
		text = fmt.Sprintf("page %d RW", e.PFN())
	}
	p := sys.Pages.Page(e.PFN())
	if l := sys.Pages.Ledger(); p.Anon() && l != nil && l.Held(p, page.RefPin) > 0 {
		text += inUse
	}
	return text
}

// deedsOf reads a story whose entries have been described by describe.
func deedsOf(s *explore.Story) []deed {
	var out []deed
	add := func(d deed) {
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	cleared := map[int]bool{}     // by task: the page of the pte that reclaim has cleared is held
	protected := map[int]string{} // by task: the page of the pte that fork has just made read-only
	for i := range s.Steps {
		st := &s.Steps[i]
		if st.ObjID.Class() != x86.ClassPTE || st.Before == st.After {
			continue
		}
		in := func(fn string) bool { return slices.Contains(st.Stack, fn) }
		was, wasPage := mapped(st.Before)
		is, isPage := mapped(st.After)
		switch {
		case in("do_wp_page"):
			if wasPage && was.held && !isPage {
				add(cowCopies)
			}
			if wasPage && isPage && was.name == is.name && !was.writable && is.writable && is.held {
				add(cowTakes)
			}
		case in("do_swap_page"):
			if isPage && is.writable && is.held {
				add(swapInTakes)
			}
		case in("try_to_unmap_one"):
			if wasPage && st.After == "" {
				cleared[st.TaskID] = was.held
			}
			if st.After == "swap" && cleared[st.TaskID] {
				add(reclaimUnmaps)
			}
		case in("copy_pte_range"):
			switch {
			case wasPage && isPage && was.name == is.name && was.writable && !is.writable:
				protected[st.TaskID] = is.name
			case !wasPage && isPage && is.held && protected[st.TaskID] == is.name:
				add(forkShares)
			case !wasPage && isPage && is.held:
				add(forkSharesRO)
			}
		}
	}
	slices.Sort(out)
	return out
}

// mapping is an entry as describe has it.
type mapping struct {
	name           string // of the page
	writable, held bool
}

// mapped reads what describe says of an entry; false if no page is mapped.
func mapped(text string) (m mapping, ok bool) {
	text, m.held = strings.CutSuffix(text, inUse)
	m.name, m.writable = strings.CutSuffix(text, " RW")
	m.name = strings.TrimSuffix(m.name, " RO")
	return m, strings.HasPrefix(text, "page ")
}
