package scenarios

import (
	"slices"
	"strings"
)

func isQuant(s string) bool {
	return s == string(Never) || s == string(Sometimes) || s == string(Always)
}

// tail reads the condition and what follows it.
func (p *parser) tail() error {
	t := p.peek()
	if t.kind != tokWord || !isQuant(t.text) {
		return p.expected(`"never", "sometimes" or "always" and a condition`)
	}
	p.next()
	p.s.Cond = Cond{Quant: Quant(t.text), Pos: t.pos}
	var err error
	if p.s.Cond.Expr, err = p.or(); err != nil {
		return err
	}
	if err := p.endLine(`"/\", "\/"`); err != nil {
		return err
	}
	for {
		switch t := p.peek(); {
		case t.kind == tokEOF:
			return nil
		case p.accept("show"):
			for {
				x, err := p.term()
				if err != nil {
					return err
				}
				p.s.Show = append(p.s.Show, x)
				if !p.accept(",") {
					break
				}
			}
			if err := p.endLine(`"," and another term`); err != nil {
				return err
			}
		case p.accept("expect"):
			if err := p.expect(); err != nil {
				return err
			}
		default:
			return p.expected(`"show", "expect" or the end of the file`)
		}
	}
}

func (p *parser) expect() error {
	n, err := p.name("a policy's name")
	if err != nil {
		return err
	}
	t := p.peek()
	if t.kind != tokWord || !isQuant(t.text) {
		return p.expected(`"never", "sometimes" or "always"`)
	}
	p.next()
	e := Expect{Policy: n, Quant: Quant(t.text)}
	for p.peek().kind == tokWord {
		w := p.next()
		if !slices.Contains(verdictWords, w.text) {
			return p.errorf(w.pos, "found %s, expected the end of the line or a verdict (%s)", w, strings.Join(verdictWords, ", "))
		}
		e.Also = append(e.Also, Name{w.text, w.pos})
	}
	p.s.Expects = append(p.s.Expects, e)
	return p.endLine("a verdict")
}

// or reads terms joined by \/, and those joined by /\.
func (p *parser) or() (Expr, error) {
	x, err := p.and()
	for err == nil && p.accept("\\/") {
		p.newlines()
		var y Expr
		y, err = p.and()
		x = &Or{x, y}
	}
	return x, err
}

func (p *parser) and() (Expr, error) {
	x, err := p.not()
	for err == nil && p.accept("/\\") {
		p.newlines()
		var y Expr
		y, err = p.not()
		x = &And{x, y}
	}
	return x, err
}

func (p *parser) not() (Expr, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, p.errorf(p.peek().pos, "the condition nests more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	switch {
	case p.accept("~"), p.accept("not"):
		x, err := p.not()
		return &Not{x}, err
	case p.accept("("):
		x, err := p.or()
		if err != nil {
			return nil, err
		}
		if !p.accept(")") {
			return nil, p.expected(`")"`)
		}
		return x, nil
	}
	return p.compare()
}

var comparisons = []string{"=", "!=", "<", "<=", ">", ">="}

func (p *parser) compare() (Expr, error) {
	x, err := p.term()
	if err != nil {
		return nil, err
	}
	c := &Compare{X: x}
	if t := p.peek(); t.kind == tokPunct && slices.Contains(comparisons, t.text) {
		c.Op = p.next().text
		if c.Y, err = p.term(); err != nil {
			return nil, err
		}
		return c, nil
	}
	if x.Func == "" {
		return nil, p.expected("a comparison (" + strings.Join(comparisons, " ") + ")")
	}
	return c, nil
}

// term reads a number, P0:r, P0:A[0], disk[0], f(...), or a verdict. Whether P0:x is a
// register or memory is found out by check.
func (p *parser) term() (*Term, error) {
	t := p.peek()
	x := &Term{Pos: t.pos}
	switch t.kind {
	case tokNumber:
		p.next()
		x.Number = &Number{t.text, t.num, t.pos}
		return x, nil
	case tokWord:
	default:
		return nil, p.expected("a term, as P0:r, P0:A[0], disk[0], refs(P0:A) or a number")
	}
	if slices.Contains(verdictWords, t.text) {
		p.next()
		x.Func = t.text
		return x, nil
	}
	if p.tokens[p.at+1].text == "(" && p.tokens[p.at+1].kind == tokPunct {
		return x, p.call(x)
	}
	pl, err := p.place()
	x.Place = pl
	return x, err
}

func (p *parser) call(x *Term) error {
	t := p.next()
	places := -2
	var names []string
	for _, f := range funcs {
		names = append(names, f.name)
		if f.name == t.text {
			places = f.places
		}
	}
	if places == -2 {
		return p.errorf(t.pos, "%q is no function, expected one of %s", t.text, strings.Join(names, ", "))
	}
	x.Func = t.text
	p.next() // the parenthesis
	if places < 0 {
		w, err := p.name(map[string]string{"counter": "a counter's name, as pgfault", "segv": "a column's name"}[t.text])
		if err != nil {
			return err
		}
		x.Word = w
	}
	for i := range max(places, 0) {
		if i > 0 && !p.accept(",") {
			return p.expected(`"," and another place`)
		}
		pl, err := p.place()
		if err != nil {
			return err
		}
		x.Args = append(x.Args, pl)
	}
	if !p.accept(")") {
		return p.expected(`")"`)
	}
	return nil
}
