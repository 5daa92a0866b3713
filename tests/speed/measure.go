package speed

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
)

// Op is one row: an operation with its sides. Sides that are nil are left out.
type Op struct {
	Name  string // e.g. "fork-page"; unique among the rows
	Title string // in words
	Unit  string // what one unit is, e.g. "page"
	N     int    // units in a batch, the same for every side: the working set has to be the same

	Native   NativeSpec
	Floor    func(n int) time.Duration // does n units, returns the time of the part that counts
	Emulated func(n int) time.Duration // the same; nil means not built yet
	Base     func(n int) time.Duration // the emulator in the plainer form that the goal compares with, e.g. one CPU
	Value    func() (float64, error)   // for rows that count bytes or per cent: the figure; the other sides stay nil

	Goal Goal
	Note string        // what stands in for what, or why a side is empty
	Said func() string // what the emulated side has to add to the note, once it has run; nil is nothing
}

// NativeSpec says how the native side is run: by an operation of the probe or
// by a function. The zero value means that there is no native side.
type NativeSpec struct {
	Probe   string   // operation of native/*.c
	Options []string // key=value for it
	Func    func(n int) time.Duration
}

func (s NativeSpec) empty() bool { return s.Probe == "" && s.Func == nil }

// Options says how to measure. The zero value measures without a native side.
type Options struct {
	Pairs      int           // rounds of each row; 0 means 20. Fewer than 20 is for a quick look
	Level      float64       // of the intervals, within 0.5 and 0.999; 0 means 0.95
	Stage      Stage         // column that Line.Goal and Line.Met speak of
	Probe      *Probe        // compiled native side; nil leaves the column empty
	NoNative   string        // why Probe is nil, for the report
	Shrink     int           // divides every batch; 0 means 1. For smoke tests: the working set shrinks as well
	BatchLimit time.Duration // longest time of one batch; 0 means 30 s
	OpLimit    time.Duration // longest time of one row; 0 means 90 s. It ends with the rounds it has
	Progress   func(op Op)   // called before each row; nil is fine
}

// Validate reports options out of range.
func (o Options) Validate() error {
	switch {
	case o.Pairs < 0 || o.Pairs > 10000:
		return fmt.Errorf("speed: %d pairs are not within 1 and 10,000", o.Pairs)
	case o.Level != 0 && (o.Level < 0.5 || o.Level > 0.999):
		return fmt.Errorf("speed: level %g is not within 0.5 and 0.999", o.Level)
	case o.Shrink < 0 || o.BatchLimit < 0 || o.OpLimit < 0:
		return errors.New("speed: a negative bound")
	}
	return nil
}

func (o Options) withDefaults() Options {
	if o.Pairs == 0 {
		o.Pairs = 20
	}
	if o.Level == 0 {
		o.Level = 0.95
	}
	if o.Shrink == 0 {
		o.Shrink = 1
	}
	if o.BatchLimit == 0 {
		o.BatchLimit = 30 * time.Second
	}
	if o.OpLimit == 0 {
		o.OpLimit = 90 * time.Second
	}
	return o
}

// Attach gives the row of that name its emulated side.
func Attach(ops []Op, name string, emulated func(n int) time.Duration) error {
	op, err := find(ops, name)
	if err == nil {
		op.Emulated = emulated
	}
	return err
}

// AttachBase gives the row of that name the side that its goal compares with.
func AttachBase(ops []Op, name string, base func(n int) time.Duration) error {
	op, err := find(ops, name)
	if err == nil {
		op.Base = base
	}
	return err
}

// AttachValue gives a counting row its figure.
func AttachValue(ops []Op, name string, value func() (float64, error)) error {
	op, err := find(ops, name)
	if err == nil {
		op.Value = value
	}
	return err
}

// AttachSaid gives a row what its emulated side adds to the note.
func AttachSaid(ops []Op, name string, said func() string) error {
	op, err := find(ops, name)
	if err == nil {
		op.Said = said
	}
	return err
}

func find(ops []Op, name string) (*Op, error) {
	for i := range ops {
		if ops[i].Name == name {
			return &ops[i], nil
		}
	}
	return nil, fmt.Errorf("speed: no row %q", name)
}

// Measure measures the rows one after the other and judges them. A side that
// fails or panics is left out of its row and the row's note says why. When ctx
// ends, Measure returns the finished rows together with ctx's error.
//
// A native batch is killed at its limit. A Go side cannot be: an emulated batch
// that overruns is left behind on its goroutine and its row ends there, so the
// caller must not tear down what it uses before the process ends.
func Measure(ctx context.Context, ops []Op, o Options) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	r := newReport(o)
	for _, op := range ops {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		if o.Progress != nil {
			o.Progress(op)
		}
		s, notes := measureOp(ctx, op, o)
		if err := ctx.Err(); err != nil {
			return r, err
		}
		r.Lines = append(r.Lines, newLine(op, s, notes, o))
	}
	return r, nil
}

// contestant is one side of a row while it is measured.
type contestant struct {
	side Side
	run  func(ctx context.Context, n int) (float64, error) // ns for each unit
	ns   []float64
	err  error // why it dropped out
}

// measureOp takes the rounds of one row.
func measureOp(ctx context.Context, op Op, o Options) (Samples, []string) {
	var s Samples
	var notes []string
	if op.Note != "" {
		notes = append(notes, op.Note)
	}
	if op.Value != nil {
		v, err := op.Value()
		if err != nil {
			return s, append(notes, "value: "+err.Error())
		}
		s.Value = []float64{v}
		return s, notes
	}
	ctx, cancel := context.WithTimeout(ctx, o.OpLimit)
	defer cancel()
	sides, session, err := contestants(ctx, op, o)
	if session != nil {
		defer session.Close()
	}
	if err != nil {
		notes = append(notes, "native: "+err.Error())
	}
	n := max(1, op.N/o.Shrink)
	runtime.GC()
	for _, c := range sides { // the first batch warms caches and pools
		c.sample(ctx, n)
	}
	for round := 0; round < o.Pairs && ctx.Err() == nil; round++ {
		for i := range sides {
			c := sides[i]
			if round%2 == 1 {
				c = sides[len(sides)-1-i]
			}
			ns, ok := c.sample(ctx, n)
			if !ok {
				ns = math.NaN()
			}
			c.ns = append(c.ns, ns)
		}
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		notes = append(notes, fmt.Sprintf("stopped after %v", o.OpLimit))
	}
	for _, c := range sides {
		if c.err != nil && ctx.Err() == nil {
			notes = append(notes, c.side.String()+": "+c.err.Error())
		}
		if _, any := Median(c.ns, o.Level); any {
			s.set(c.side, c.ns)
		}
	}
	if op.Said != nil && len(s.Emulated) > 0 {
		notes = append(notes, op.Said())
	}
	return s, notes
}

// sample runs one batch, unless the side has dropped out.
func (c *contestant) sample(ctx context.Context, n int) (float64, bool) {
	if c.err != nil {
		return 0, false
	}
	if c.err = ctx.Err(); c.err != nil {
		return 0, false
	}
	ns, err := c.run(ctx, n)
	c.err = err
	return ns, err == nil
}

func (s *Samples) set(side Side, ns []float64) {
	switch side {
	case Native:
		s.Native = ns
	case Floor:
		s.Floor = ns
	case Base:
		s.Base = ns
	case Emulated:
		s.Emulated = ns
	}
}

// contestants returns the sides of a row in the order of the first round, and the
// probe's session if there is one. The error says why native is missing.
func contestants(ctx context.Context, op Op, o Options) ([]*contestant, *Session, error) {
	var sides []*contestant
	var session *Session
	var err error
	switch {
	case op.Native.Func != nil:
		sides = append(sides, &contestant{side: Native, run: inGo(op.Native.Func, o.BatchLimit)})
	case op.Native.Probe != "" && o.Probe != nil:
		session, err = o.Probe.Start(ctx, op.Native.Probe, op.Native.Options...)
		if err == nil {
			sides = append(sides, &contestant{side: Native, run: func(ctx context.Context, n int) (float64, error) {
				return session.Run(ctx, n, o.BatchLimit)
			}})
		}
	case op.Native.Probe != "" && o.NoNative != "":
		err = errors.New(o.NoNative)
	}
	add := func(side Side, f func(n int) time.Duration) {
		if f != nil {
			sides = append(sides, &contestant{side: side, run: inGo(f, o.BatchLimit)})
		}
	}
	add(Floor, op.Floor)
	add(Base, op.Base)
	add(Emulated, op.Emulated)
	return sides, session, err
}

// inGo makes a side of a function. The batch runs on a goroutine of its own, so
// that a panic or an endless loop in it costs one row and not the run.
func inGo(f func(n int) time.Duration, limit time.Duration) func(context.Context, int) (float64, error) {
	type result struct {
		d   time.Duration
		err error
	}
	return func(ctx context.Context, n int) (float64, error) {
		done := make(chan result, 1)
		go func() {
			r := result{err: errors.New("left its goroutine")}
			defer func() {
				if p := recover(); p != nil {
					r.err = fmt.Errorf("panic: %v (%s)", p, panicSite(debug.Stack()))
				}
				done <- r
			}()
			d := f(n)
			r = result{d: d}
		}()
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case r := <-done:
			return float64(r.d.Nanoseconds()) / float64(n), r.err
		case <-timer.C:
			return 0, fmt.Errorf("a batch of %d took more than %v and was left behind", n, limit)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// panicSite returns file and line of the function that panicked, from a stack
// taken in a deferred function.
func panicSite(stack []byte) string {
	lines := strings.Split(string(stack), "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "panic(") && i+3 < len(lines) {
			site, _, _ := strings.Cut(strings.TrimSpace(lines[i+3]), " ")
			return site
		}
	}
	return "site unknown"
}
