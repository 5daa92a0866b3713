package explore

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Version is the version of tokens that this package writes. It changes when an
// old token would name another schedule: with the generators, the default rule, or FairBound.
const Version = 1

// Token names one run: of which target, under which policy, in which schedule.
// Its text is one short line of letters, digits, '_', '-', '~' and '.', so it
// survives mail, shells and URLs:
//
//	cl1.dma_thread~align~512~workers~2.stock.r.1f3a9c20.4kq7w
//	 |   target, then parameters        |    |   |       checksum
//	 version                       policy    strategy
//
// The strategy is r.SEED, o.SEED, pDEPTH.LENGTH.SEED or s.SWITCHES; seeds are
// hexadecimal, the length is decimal, switches are as encodeSwitches writes
// them. In names and parameters '-' stands before what is not a letter, a digit
// or '_': another '-', or two hexadecimal digits of the byte.
type Token struct {
	Target string
	Params []Param
	Policy string
	Spec   Spec
}

// maxToken bounds the text that ParseToken looks at.
const maxToken = 1 << 17

// String returns the token's text. ParseToken is the inverse for every token
// that Validate accepts.
func (t Token) String() string {
	b := fmt.Appendf(nil, "cl%d.", Version)
	b = appendEscaped(b, t.Target)
	for _, p := range t.Params {
		b = append(b, '~')
		b = appendEscaped(b, p.Key)
		b = append(b, '~')
		b = appendEscaped(b, p.Value)
	}
	b = append(b, '.')
	b = appendEscaped(b, t.Policy)
	b = append(b, '.', byte(t.Spec.Kind))
	switch t.Spec.Kind {
	case KindRandom, KindPOS:
		b = fmt.Appendf(b, ".%x", t.Spec.Seed)
	case KindPCT:
		b = fmt.Appendf(b, "%d.%d.%x", t.Spec.Depth, t.Spec.Length, t.Spec.Seed)
	case KindSwitches:
		b = append(b, '.')
		b = append(b, encodeSwitches(t.Spec.Switches)...)
	}
	return string(b) + "." + checksum(string(b))
}

// Validate reports what is wrong with the token.
func (t Token) Validate() error {
	if t.Target == "" {
		return fmt.Errorf("token: no target")
	}
	for _, p := range t.Params {
		if p.Key == "" {
			return fmt.Errorf("token: a parameter of %s has no name", t.Target)
		}
	}
	switch s := t.Spec; s.Kind {
	case KindRandom, KindPOS:
	case KindPCT:
		if s.Depth < 1 || s.Depth > MaxDepth {
			return fmt.Errorf("token: PCT depth is %d, must be 1 to %d", s.Depth, MaxDepth)
		}
	case KindSwitches:
		for i := range s.Switches {
			if s.Switches[i].At > maxPlace {
				return fmt.Errorf("token: switch %s is beyond any run", s.Switches[i])
			}
			if i > 0 && s.Switches[i].At <= s.Switches[i-1].At {
				return fmt.Errorf("token: switches must be in ascending order: %s after %s", s.Switches[i], s.Switches[i-1])
			}
		}
	default:
		return fmt.Errorf("token: unknown strategy %q; known are r (random), p (PCT), o (partial-order sampling), s (switches)", string(rune(s.Kind)))
	}
	return nil
}

// ParseToken reads a token's text. The error says what is wrong with it.
func ParseToken(text string) (Token, error) {
	var t Token
	text = strings.TrimSpace(text)
	if len(text) > maxToken {
		return t, fmt.Errorf("token: %d characters long, at most %d make sense", len(text), maxToken)
	}
	version, rest, dots := strings.Cut(text, ".")
	number, ours := strings.CutPrefix(version, "cl")
	v, err := strconv.Atoi(number)
	switch {
	case !ours || err != nil || !dots:
		return t, fmt.Errorf("token: %s is not a token: a token begins with \"cl%d.\"", quoted(text), Version)
	case v != Version:
		return t, fmt.Errorf("token: version %d, but this program knows version %d only", v, Version)
	}
	last := strings.LastIndexByte(text, '.')
	if sum := text[last+1:]; sum != checksum(text[:last]) {
		return t, fmt.Errorf("token: the checksum %s does not fit the rest: mistyped, or cut off", quoted(sum))
	}
	rest, _, _ = cutLast(rest)
	f := strings.Split(rest, ".")
	if len(f) < 4 {
		return t, fmt.Errorf("token: %d fields, expected target.policy.strategy.seed between version and checksum", len(f))
	}
	names := strings.Split(f[0], "~")
	for i, s := range names {
		if names[i], err = unescape(s); err != nil {
			return t, fmt.Errorf("token: target: %w", err)
		}
	}
	if len(names)%2 == 0 {
		return t, fmt.Errorf("token: parameter %s of target %s has no value", quoted(names[len(names)-1]), quoted(names[0]))
	}
	t.Target = names[0]
	for i := 1; i < len(names); i += 2 {
		t.Params = append(t.Params, Param{names[i], names[i+1]})
	}
	if t.Policy, err = unescape(f[1]); err != nil {
		return t, fmt.Errorf("token: policy: %w", err)
	}
	if t.Spec, err = parseSpec(f[2], f[3:]); err != nil {
		return t, fmt.Errorf("token: %w", err)
	}
	if err := t.Validate(); err != nil {
		return t, err
	}
	if t.String() != text {
		return t, fmt.Errorf("token: not written the usual way, which is %s", t)
	}
	return t, nil
}

// parseSpec reads the strategy's fields.
func parseSpec(kind string, args []string) (s Spec, err error) {
	if kind == "" {
		return s, fmt.Errorf("no strategy")
	}
	s.Kind = Kind(kind[0])
	want := 1
	switch {
	case s.Kind == KindPCT:
		want = 2
		if s.Depth, err = strconv.Atoi(kind[1:]); err != nil {
			return s, fmt.Errorf("strategy %s: the depth %s is not a number", quoted(kind), quoted(kind[1:]))
		}
	case len(kind) > 1 || s.Kind != KindRandom && s.Kind != KindPOS && s.Kind != KindSwitches:
		return s, fmt.Errorf("unknown strategy %s; known are r (random), p1 to p%d (PCT), o (partial-order sampling), s (switches)", quoted(kind), MaxDepth)
	}
	if len(args) != want {
		return s, fmt.Errorf("strategy %s has %d arguments, expected %d", kind, len(args), want)
	}
	if s.Kind == KindSwitches {
		s.Switches, err = decodeSwitches(args[0])
		return s, err
	}
	if s.Kind == KindPCT {
		if s.Length, err = strconv.ParseUint(args[0], 10, 64); err != nil || s.Length > math.MaxInt64 {
			return s, fmt.Errorf("strategy %s: the length %s is not a number of points", kind, quoted(args[0]))
		}
	}
	if s.Seed, err = strconv.ParseUint(args[want-1], 16, 64); err != nil {
		return s, fmt.Errorf("strategy %s: the seed %s is not a hexadecimal number of 64 bits", kind, quoted(args[want-1]))
	}
	return s, nil
}

// checksum is 25 bits in the letters and digits that are not mistaken for each other.
func checksum(s string) string {
	const digits = "0123456789abcdefghjkmnpqrstvwxyz"
	h := xxhash.Sum64String(s)
	var b [5]byte
	for i := range b {
		b[i] = digits[h>>(5*i)&31]
	}
	return string(b[:])
}

func plain(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

func appendEscaped(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case plain(c):
			b = append(b, c)
		case c == '-':
			b = append(b, "--"...)
		default:
			b = fmt.Appendf(b, "-%02x", c)
		}
	}
	return b
}

func unescape(s string) (string, error) {
	var b []byte
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case plain(c):
		case c != '-':
			return "", fmt.Errorf("%q in %s is not allowed", c, quoted(s))
		case strings.HasPrefix(s[i:], "--"):
			i++
		default:
			v, err := strconv.ParseUint(s[i+1:min(i+3, len(s))], 16, 8)
			if err != nil || i+3 > len(s) {
				return "", fmt.Errorf("%s has a '-' without two hexadecimal digits or another '-'", quoted(s))
			}
			c = byte(v)
			i += 2
		}
		b = append(b, c)
	}
	return string(b), nil
}

// quoted is text in quotes, shortened if it is long.
func quoted(s string) string {
	if len(s) > 40 {
		return strconv.Quote(s[:40]) + "..."
	}
	return strconv.Quote(s)
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
