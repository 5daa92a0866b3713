package scenarios

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Pos is a place in a scenario's text, both numbers from 1.
type Pos struct{ Line, Col int }

// Error says what is wrong with a scenario's text, where, and what would be right.
type Error struct {
	// File is the name that the text was given.
	File string
	Pos  Pos
	Msg  string
}

// Error returns file:line:column and the message in one line.
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Pos.Line, e.Pos.Col, e.Msg)
}

// maxText bounds a scenario's text; a scenario is a page long.
const maxText = 1 << 18

// kind is a kind of token.
type kind uint8

const (
	tokEOF kind = iota
	tokNewline
	tokWord   // letter or '_', then letters, digits, '_', and '-', '+', '.' before one of them
	tokNumber // decimal or 0x..., perhaps with K or M; or a negative errno as -EIO
	tokString
	tokPunct
)

type token struct {
	kind kind
	text string // of a string: without its quotes
	num  int64
	pos  Pos
}

// String shows the token in an error.
func (t token) String() string {
	switch t.kind {
	case tokEOF:
		return "the end of the file"
	case tokNewline:
		return "the end of the line"
	case tokString:
		return fmt.Sprintf("the text %s", shorten(fmt.Sprintf("%q", t.text)))
	}
	return shorten(fmt.Sprintf("%q", t.text))
}

func shorten(s string) string {
	if len(s) > 40 {
		return s[:37] + "..."
	}
	return s
}

// lexer cuts a text into tokens.
type lexer struct {
	file     string
	src      string
	at       int
	pos      Pos
	comments []string // comments before the first token
	tokens   []token
}

// lex returns the tokens of a text, the last one tokEOF, and the comments before the first.
func lex(file, src string) ([]token, []string, error) {
	l := &lexer{file: file, src: src, pos: Pos{1, 1}}
	if len(src) > maxText {
		return nil, nil, l.errorf(Pos{1, 1}, "%d bytes long, expected at most %d", len(src), maxText)
	}
	for {
		t, err := l.next()
		if err != nil {
			return nil, nil, err
		}
		l.tokens = append(l.tokens, t)
		if t.kind == tokEOF {
			return l.tokens, l.comments, nil
		}
	}
}

func (l *lexer) errorf(p Pos, format string, args ...any) error {
	return &Error{File: l.file, Pos: p, Msg: fmt.Sprintf(format, args...)}
}

// step moves on by n bytes, none of which is a newline unless n is 1.
func (l *lexer) step(n int) {
	if l.src[l.at] == '\n' {
		l.pos = Pos{l.pos.Line + 1, 1}
	} else {
		l.pos.Col += n
	}
	l.at += n
}

func (l *lexer) rest() string { return l.src[l.at:] }

// blank skips blanks and comments.
func (l *lexer) blank() error {
	for l.at < len(l.src) {
		switch c := l.src[l.at]; {
		case c == ' ' || c == '\t' || c == '\r':
			l.step(1)
		case strings.HasPrefix(l.rest(), "(*"):
			from, begin := l.pos, l.at
			l.step(2)
			for !strings.HasPrefix(l.rest(), "*)") {
				if l.at >= len(l.src) {
					return l.errorf(from, "the comment is not closed, expected \"*)\"")
				}
				l.step(1)
			}
			l.step(2)
			if l.first() {
				l.comments = append(l.comments, l.src[begin+2:l.at-2])
			}
		default:
			return nil
		}
	}
	return nil
}

// first reports whether there was nothing but newlines so far.
func (l *lexer) first() bool {
	for _, t := range l.tokens {
		if t.kind != tokNewline {
			return false
		}
	}
	return true
}

var puncts = []string{"/\\", "\\/", "!=", "<=", ">=", "=", "<", ">", "|", ";", "[", "]", "(", ")", ":", ",", "@", "~"}

func (l *lexer) next() (token, error) {
	if err := l.blank(); err != nil {
		return token{}, err
	}
	t := token{pos: l.pos}
	if l.at >= len(l.src) {
		return t, nil
	}
	c := l.src[l.at]
	switch {
	case c == '\n':
		t.kind, t.text = tokNewline, "\n"
		l.step(1)
		return t, nil
	case c == '"':
		end := strings.IndexAny(l.rest()[1:], "\"\n")
		if end < 0 || l.rest()[1+end] == '\n' {
			return t, l.errorf(l.pos, "the text is not closed, expected '\"' on the same line")
		}
		t.kind, t.text = tokString, l.rest()[1:1+end]
		l.step(end + 2)
		return t, nil
	case letter(c):
		t.kind, t.text = tokWord, l.word()
		return t, nil
	case digit(c), c == '-':
		return l.number()
	}
	for _, p := range puncts {
		if strings.HasPrefix(l.rest(), p) {
			t.kind, t.text = tokPunct, p
			l.step(len(p))
			return t, nil
		}
	}
	return t, l.errorf(l.pos, "%s means nothing here, expected a word, a number or one of %s", shorten(fmt.Sprintf("%q", []rune(l.rest()[:min(4, len(l.rest()))])[0])), strings.Join(puncts, " "))
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' }
func digit(c byte) bool  { return c >= '0' && c <= '9' }

// word reads a word: its joints are followed by a letter or digit.
func (l *lexer) word() string {
	s := l.rest()
	n := 1
	for n < len(s) {
		switch c := s[n]; {
		case letter(c) || digit(c):
			n++
			continue
		case (c == '-' || c == '+' || c == '.') && n+1 < len(s) && (letter(s[n+1]) || digit(s[n+1])):
			n += 2
			continue
		}
		break
	}
	l.step(n)
	return s[:n]
}

// number reads a number, or an error as the system calls return it.
func (l *lexer) number() (token, error) {
	t := token{kind: tokNumber, pos: l.pos}
	s, n := l.rest(), 1
	for n < len(s) && (letter(s[n]) || digit(s[n])) {
		n++
	}
	t.text = s[:n]
	v, ok := parseNumber(t.text)
	if !ok {
		return t, l.errorf(l.pos, "%s is no number; expected one like 512, 0x200, 4K, up to 0x%x, or an error like -EIO", shorten(fmt.Sprintf("%q", t.text)), int64(maxNumber))
	}
	t.num = v
	l.step(n)
	return t, nil
}

// maxNumber bounds what a number in a scenario may be.
const maxNumber = 1 << 40

// parseNumber reads what number allows.
func parseNumber(s string) (int64, bool) {
	body, negative := strings.CutPrefix(s, "-")
	if negative {
		for _, e := range errnos {
			if unix.ErrnoName(e) == body {
				return -int64(e), true
			}
		}
	}
	unit := int64(1)
	switch {
	case strings.HasSuffix(body, "K"):
		body, unit = body[:len(body)-1], 1<<10
	case strings.HasSuffix(body, "M"):
		body, unit = body[:len(body)-1], 1<<20
	}
	base := int64(10)
	if rest, ok := strings.CutPrefix(body, "0x"); ok {
		body, base = rest, 16
	}
	if body == "" {
		return 0, false
	}
	v := int64(0)
	for i := range len(body) {
		d := int64(strings.IndexByte("0123456789abcdef", body[i]))
		if d < 0 || d >= base {
			return 0, false
		}
		if v = v*base + d; v > maxNumber {
			return 0, false
		}
	}
	if v *= unit; v > maxNumber {
		return 0, false
	}
	if negative {
		v = -v
	}
	return v, true
}

// errnos are the errors that scenarios can name.
var errnos = [...]unix.Errno{
	unix.EPERM, unix.ESRCH, unix.EINTR, unix.EIO, unix.EBADF, unix.ECHILD, unix.EAGAIN, unix.ENOMEM, unix.EACCES,
	unix.EFAULT, unix.EBUSY, unix.EINVAL, unix.ENOSPC, unix.EPIPE,
}

// numberText prints a number as scenarios write it.
func numberText(v int64) string {
	if v < 0 {
		for _, e := range errnos {
			if int64(e) == -v {
				return "-" + unix.ErrnoName(e)
			}
		}
	}
	switch {
	case v >= 1<<20 && v%(1<<20) == 0:
		return fmt.Sprintf("%dM", v>>20)
	case v >= 1<<10 && v%(1<<10) == 0:
		return fmt.Sprintf("%dK", v>>10)
	}
	return fmt.Sprint(v)
}
