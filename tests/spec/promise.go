package spec

import (
	"slices"

	"github.com/cowlab/cowlab/mm"
)

// Guarantees for drivers' pins. To the patches of 2009 they are get_user_pages, and who
// promises something for all its users (OtherPins) promises it for them. Since Linux 5.6
// they are a kind of their own, FOLL_PIN: rows 20 to 22 keep those, in both directions, and
// promise less of the others, so that their claims do not name Forward.
const (
	follWrite mm.Guarantee = 1 << 29 // what a device writes through FOLL_PIN arrives
	follRead  mm.Guarantee = 1 << 30 // what it reads is the owner's
)

// follPinners are the rows that know FOLL_PIN.
func follPinners() []string { return []string{"pin_copy", "anon_exclusive", "dio_pin"} }

// Promises returns what a policy promises, FOLL_PIN included.
func Promises(p mm.Policy) mm.Guarantee {
	g := p.Claims()
	keeps := slices.Contains(follPinners(), p.Name())
	if keeps || g&(mm.Forward|mm.OtherPins) == mm.Forward|mm.OtherPins {
		g |= follWrite
	}
	if keeps || g&(mm.Reverse|mm.OtherPins) == mm.Reverse|mm.OtherPins {
		g |= follRead
	}
	return g
}

// promise is what has to be promised of a transfer through a pin: mm.Forward if the device
// writes, mm.Reverse if it reads.
func (p *pin) promise(dir mm.Guarantee) mm.Guarantee {
	switch {
	case !p.foll:
		return dir | mm.OtherPins
	case dir == mm.Forward:
		return follWrite
	}
	return follRead
}
