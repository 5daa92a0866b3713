package explore

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cowlab/cowlab/kernel/sched"
)

// Switch is a place where a schedule departs from the default rule.
type Switch struct {
	// At counts the strategy's decisions from zero.
	At uint64
	// To is who takes the step.
	To ActorID
}

// String describes the switch.
func (s Switch) String() string { return fmt.Sprintf("at %d to %s", s.At, s.To) }

// script follows the default rule except at the listed decisions. A switch to
// somebody who cannot act is passed over.
type script struct {
	switches []Switch
	n        uint64 // decisions made
	next     int    // index of the next switch
}

// Begin implements sched.Strategy.
func (s *script) Begin(int) { s.n, s.next = 0, 0 }

// Pick implements sched.Strategy.
func (s *script) Pick(ch *sched.Choice) int {
	n := s.n
	s.n++
	if s.next < len(s.switches) && s.switches[s.next].At == n {
		to := s.switches[s.next].To
		s.next++
		if i := find(ch, to); i >= 0 {
			return i
		}
	}
	return Default(ch)
}

// What a token may ask for.
const (
	maxSwitches = 1 << 16
	maxPlace    = 1 << 40
)

// encodeSwitches writes switches in base64url: for each run of consecutive
// decisions with the same distance and actor one varint of the distance from the
// previous switch, one of the actor, and, as most runs are of one, their number
// only where bit 0 of the distance says so.
func encodeSwitches(s []Switch) string {
	var b []byte
	var prev uint64 // one more than the last switch's place
	for i := 0; i < len(s); {
		gap := s[i].At - prev
		n, at := 1, s[i].At+1
		for i+n < len(s) && s[i+n].To == s[i].To && s[i+n].At-at == gap {
			n, at = n+1, s[i+n].At+1
		}
		if n == 1 {
			b = binary.AppendUvarint(b, gap<<1)
			b = binary.AppendUvarint(b, uint64(s[i].To))
		} else {
			b = binary.AppendUvarint(b, gap<<1|1)
			b = binary.AppendUvarint(b, uint64(s[i].To))
			b = binary.AppendUvarint(b, uint64(n))
		}
		prev, i = at, i+n
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// decodeSwitches is the inverse of encodeSwitches.
func decodeSwitches(text string) ([]Switch, error) {
	b, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("list of switches: %w", err)
	}
	bad := error(nil)
	number := func() uint64 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			bad, b = errors.New("list of switches ends in the middle of a number"), nil
			return 0
		}
		b = b[n:]
		return v
	}
	var s []Switch
	var prev uint64
	for len(b) > 0 {
		gap, to, n := number(), number(), uint64(1)
		if gap&1 != 0 {
			n = number()
		}
		gap >>= 1
		if bad == nil && (n == 0 || n > maxSwitches || uint64(len(s))+n > maxSwitches || gap > maxPlace) {
			bad = fmt.Errorf("list of switches: more than %d switches, or a place beyond any run", maxSwitches)
		}
		if bad != nil {
			return nil, bad
		}
		for range n {
			s = append(s, Switch{prev + gap, ActorID(to)})
			prev += gap + 1
		}
	}
	return s, nil
}
