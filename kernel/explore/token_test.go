package explore_test

import (
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/kernel/explore"
)

var someTokens = []explore.Token{
	{Target: "forkscrew", Policy: "stock", Spec: explore.Spec{Kind: explore.KindRandom, Seed: 0x1f3a9c204e55}},
	{Target: "dma_thread", Params: []explore.Param{{"align", "512"}, {"workers", "2"}}, Policy: "pg_gup",
		Spec: explore.Spec{Kind: explore.KindPCT, Depth: 3, Length: 512, Seed: 1<<48 - 1}},
	{Target: "c1", Policy: "pg_gup", Spec: explore.Spec{Kind: explore.KindSwitches, Switches: []explore.Switch{
		{At: 12, To: explore.CPUActor(1)}, {At: 31, To: explore.EventActor(7)}, {At: 32, To: explore.CPUActor(0)}}}},
	{Target: "c1", Policy: "stock", Spec: explore.Spec{Kind: explore.KindSwitches}},
	{Target: "a.b~c d-e", Params: []explore.Param{{"k=", ""}, {"ä", "-~./"}}, Policy: "", Spec: explore.Spec{Kind: explore.KindRandom}},
}

func TestTokenRoundTrip(t *testing.T) {
	urlSafe := regexp.MustCompile(`^[A-Za-z0-9._~-]+$`)
	for _, tok := range someTokens {
		require.NoError(t, tok.Validate())
		text := tok.String()
		assert.Regexp(t, urlSafe, text)
		assert.Less(t, len(text), 100)
		back, err := explore.ParseToken(" " + text + "\n")
		require.NoError(t, err, text)
		assert.Equal(t, tok, back)
	}
	assert.Equal(t, "cl1.forkscrew.stock.r.1f3a9c204e55.", someTokens[0].String()[:35])
	assert.Contains(t, someTokens[1].String(), "cl1.dma_thread~align~512~workers~2.pg_gup.p3.512.ffffffffffff.")
}

func TestRandomSwitchesRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		var s []explore.Switch
		at := uint64(0)
		for range r.IntN(30) {
			at += uint64(r.IntN(4)) * uint64(r.IntN(100))
			s = append(s, explore.Switch{At: at, To: explore.ActorID(r.IntN(5))})
			at++
		}
		tok := explore.Token{Target: "x", Spec: explore.Spec{Kind: explore.KindSwitches, Switches: s}}
		back, err := explore.ParseToken(tok.String())
		require.NoError(t, err)
		assert.Equal(t, tok, back)
	}
}

func TestRegularSwitchesAreShort(t *testing.T) {
	tok := explore.Token{Target: "forkscrew", Policy: "pg_gup", Spec: explore.Spec{Kind: explore.KindSwitches}}
	for i := range uint64(1000) {
		tok.Spec.Switches = append(tok.Spec.Switches, explore.Switch{At: 3 * i, To: explore.CPUActor(1)})
	}
	assert.Less(t, len(tok.String()), 60)
	tok.Spec.Switches = nil
	for i := range uint64(16) {
		tok.Spec.Switches = append(tok.Spec.Switches, explore.Switch{At: i * (40 + i), To: explore.CPUActor(int(i % 2))})
	}
	assert.Less(t, len(tok.String()), 100)
}

func TestEveryTypoIsNoticed(t *testing.T) {
	text := someTokens[1].String()
	for i := range text {
		for _, c := range "0a-~.Zq" {
			if byte(c) == text[i] {
				continue
			}
			_, err := explore.ParseToken(text[:i] + string(c) + text[i+1:])
			assert.Error(t, err, "%d %c", i, c)
		}
		_, err := explore.ParseToken(text[:i])
		assert.Error(t, err)
	}
}

func TestTokenErrorsSayWhatIsWrong(t *testing.T) {
	good := someTokens[0].String()
	for text, says := range map[string]string{
		"":                              "a token begins with",
		"hello":                         "is not a token",
		"cl2" + good[3:]:                "version 2, but this program knows version 1 only",
		good[:len(good)-1]:              "mistyped, or cut off",
		strings.ToUpper(good):           "is not a token",
		"cl1.x.y.8mn5v":                 "checksum",
		strings.Repeat("x", 1<<18):      "characters long",
		strings.Repeat("long token", 9): `"long tokenlong tokenlong tokenlong token"...`,
	} {
		_, err := explore.ParseToken(text)
		require.Error(t, err, text)
		assert.Contains(t, err.Error(), says)
	}
	for body, says := range map[string]string{
		"cl1.x.stock":                  "2 fields",
		"cl1..stock.r.1":               "no target",
		"cl1.x~k.stock.r.1":            `parameter "k" of target "x" has no value`,
		"cl1.x-2.stock.r.1":            "'-' without",
		"cl1.x.sto/ck.r.1":             `policy: '/' in "sto/ck" is not allowed`,
		"cl1.x.stock.q.1":              `unknown strategy "q"`,
		"cl1.x.stock.rr.1":             `unknown strategy "rr"`,
		"cl1.x.stock..1":               "no strategy",
		"cl1.x.stock.r.1.2":            "has 2 arguments, expected 1",
		"cl1.x.stock.r.xyz":            `the seed "xyz" is not`,
		"cl1.x.stock.r.01":             "not written the usual way",
		"cl1.x.stock.p.5.1":            `the depth "" is not a number`,
		"cl1.x.stock.p0.5.1":           "PCT depth is 0, must be 1 to 9",
		"cl1.x.stock.p2.x.1":           `the length "x"`,
		"cl1.x.stock.s.!":              "list of switches",
		"cl1.x.stock.s.gA":             "in the middle of a number",
		"cl1.x.stock.s.AwIA":           "more than 65536 switches",
		"cl1.x.stock.s._____________w": "in the middle",
	} {
		_, err := explore.ParseToken(body + "." + explore.Checksum(body))
		require.Error(t, err, body)
		assert.Contains(t, err.Error(), says, body)
	}
}

func FuzzParseToken(f *testing.F) {
	for _, tok := range someTokens {
		s := tok.String()
		f.Add(s[:strings.LastIndexByte(s, '.')])
	}
	f.Fuzz(func(t *testing.T, body string) {
		text := body + "." + explore.Checksum(body)
		tok, err := explore.ParseToken(text)
		if err != nil {
			return
		}
		assert.Equal(t, strings.TrimSpace(text), tok.String())
		assert.NotPanics(t, func() { tok.Spec.Strategy() })
	})
}

func FuzzTokenNames(f *testing.F) {
	f.Add("forkscrew", "align", "512", "pg_gup", uint64(7))
	f.Add("~", ".", "-", "--", uint64(0))
	f.Fuzz(func(t *testing.T, target, key, value, policy string, seed uint64) {
		tok := explore.Token{Target: target, Params: []explore.Param{{key, value}}, Policy: policy,
			Spec: explore.Spec{Kind: explore.KindRandom, Seed: seed}}
		if tok.Validate() != nil || len(tok.String()) > 1<<16 {
			return
		}
		back, err := explore.ParseToken(tok.String())
		require.NoError(t, err)
		assert.Equal(t, tok, back)
	})
}
