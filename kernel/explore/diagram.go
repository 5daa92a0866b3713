package explore

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/cowlab/cowlab/arch/x86"
)

// DiagramOptions say how to draw a story.
type DiagramOptions struct {
	// Width is the number of columns of text; zero means 96.
	Width int
	// MaxRows is about how many rows of steps to draw; zero means 60. Where there
	// would be more, the middles of long stretches are left out, and said to be.
	MaxRows int
	// Show says which steps to draw; nil draws those with Shown set.
	Show func(s *Step) bool
	// NoHead leaves out the lines about target, policy and token.
	NoHead bool
}

// Diagram draws the story as kernel people draw a race in mail: a column for
// each CPU and one for devices, time going down, under the name of each
// function the steps it makes, and what each changed. A bar in a CPU's column is the
// lane of its interrupts.
//
// The numbers at the left are those of the steps; a '*' marks where a CPU was
// left although it could have gone on, which is to say: the race.
func (s *Story) Diagram(o DiagramOptions) string {
	if o.Width == 0 {
		o.Width = 96
	}
	if o.MaxRows == 0 {
		o.MaxRows = 60
	}
	if o.Show == nil {
		o.Show = func(s *Step) bool { return s.Shown }
	}
	d := &drawing{story: s, o: &o}
	d.collect()
	d.elide()
	return d.draw()
}

// row is a step or several that are drawn as one.
type row struct {
	first, last *Step
	count       int         // steps
	bytes       *ByteChange // what they changed, together
	more        int         // steps left out, instead of a step
}

// block is a stretch of one lane that nobody interrupts.
type block struct {
	lane     int
	preempts bool
	rows     []row
}

type drawing struct {
	story  *Story
	o      *DiagramOptions
	lanes  []int // lanes that are drawn, CPUs first
	blocks []block
}

// collect sorts the steps to be shown into blocks and rows.
func (d *drawing) collect() {
	preempts := false
	seen := map[int]bool{}
	for i := range d.story.Steps {
		s := &d.story.Steps[i]
		preempts = preempts || s.Preempts
		if !d.o.Show(s) {
			continue
		}
		seen[s.CPU] = true
		n := len(d.blocks)
		if n == 0 || d.blocks[n-1].lane != s.CPU {
			d.blocks = append(d.blocks, block{lane: s.CPU, preempts: preempts && n > 0})
			n++
		}
		preempts = false
		d.blocks[n-1].add(s)
	}
	for l := range seen {
		d.lanes = append(d.lanes, l)
	}
	sort.Slice(d.lanes, func(i, j int) bool { // CPUs in order, devices last
		return uint(d.lanes[i]) < uint(d.lanes[j])
	})
}

// add enters a step into the block. Copying goes sector by sector and reads and
// writes in turn; nobody interrupts within a block, so the sectors of one frame
// are put together.
func (b *block) add(s *Step) {
	for i := len(b.rows) - 1; i >= 0; i-- {
		r := &b.rows[i]
		if r.last.Func != s.Func || r.last.TaskID != s.TaskID || r.last.IRQ != s.IRQ {
			break
		}
		sameFrame := s.ObjID.Class() == x86.ClassFrame && r.last.ObjID.Class() == x86.ClassFrame && s.ObjID.ID()>>3 == r.last.ObjID.ID()>>3
		if r.last.OpID == s.OpID && sameFrame && !s.Resumes {
			r.last = s
			r.count++
			r.bytes = r.bytes.and(s.Bytes)
			return
		}
		if i == len(b.rows)-1 && r.last.OpID == s.OpID && r.last.ObjID == s.ObjID && !s.Resumes && !r.last.Waits {
			r.last = s
			r.count++
			return
		}
		if s.ObjID.Class() != x86.ClassFrame {
			break
		}
	}
	b.rows = append(b.rows, row{first: s, last: s, count: 1, bytes: s.Bytes})
}

// elide leaves out the middles of long blocks until the rows are few enough.
func (d *drawing) elide() {
	total, longest := 0, 0
	for i := range d.blocks {
		total += len(d.blocks[i].rows)
		longest = max(longest, len(d.blocks[i].rows))
	}
	if total <= d.o.MaxRows {
		return
	}
	keep := longest
	for keep > 4 {
		keep--
		n := 0
		for i := range d.blocks {
			n += min(len(d.blocks[i].rows), keep)
		}
		if n <= d.o.MaxRows {
			break
		}
	}
	for i := range d.blocks {
		b := &d.blocks[i]
		n := len(b.rows) - keep
		if n < 2 {
			continue
		}
		from := (keep + 1) / 2
		more := 0
		for _, r := range b.rows[from : from+n] {
			more += r.count
		}
		left := b.rows[from]
		left.more = more
		rows := append(append([]row(nil), b.rows[:from]...), left)
		b.rows = append(rows, b.rows[from+n:]...)
	}
}

// farApart is the number of rows after which a column repeats its function's name.
const farApart = 12

// margin is the width of the step numbers.
const margin = 6

// draw lays the blocks out.
func (d *drawing) draw() string {
	var out strings.Builder
	if !d.o.NoHead {
		fmt.Fprintf(&out, "%s under %s: %s\n%s\n\n", d.story.Target, d.story.Policy, d.story.Verdict, d.story.head())
	}
	if len(d.blocks) == 0 {
		out.WriteString("(no step touches what another one touches)\n")
		return out.String()
	}
	width := max((d.o.Width-margin)/len(d.lanes), 24)
	column := map[int]int{}
	put := func(left string, lane int, text string) {
		line := fmt.Sprintf("%-*s%*s%s", margin, left, column[lane]*width, "", text)
		out.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	names, many := d.taskNames()
	var head, rule strings.Builder
	for i, l := range d.lanes {
		column[l] = i
		title := "device"
		if l != DeviceLane {
			title = fmt.Sprintf("CPU %d", l)
			if names[l] != "" {
				title += "  " + names[l]
			}
			if d.irqs(l) {
				title += "  | <IRQ>"
			}
		}
		fmt.Fprintf(&head, "%-*s", width, clip(title, width-2))
		fmt.Fprintf(&rule, "%-*s", width, strings.Repeat("-", width-2))
	}
	put("", d.lanes[0], head.String())
	put("", d.lanes[0], rule.String())

	task, fn := map[int]int{}, map[int]string{}
	rows, at := 0, map[int]int{} // rows so far; where each lane's last one is
	for i := range d.blocks {
		b := &d.blocks[i]
		star := ""
		if b.preempts {
			star = "*"
		}
		for k := range b.rows {
			r := &b.rows[k]
			s := r.first
			if many[b.lane] && task[b.lane] != s.TaskID && !s.IRQ {
				task[b.lane] = s.TaskID
				put("", b.lane, fmt.Sprintf("[%s]", s.Task))
				fn[b.lane] = ""
			}
			name, bar := s.Func, ""
			if s.IRQ {
				name, bar = "<IRQ> "+name, "| "
			}
			if rows++; fn[b.lane] != name || rows-at[b.lane] > farApart {
				fn[b.lane] = name
				put("", b.lane, clip(bar+name+":", width-1))
			}
			at[b.lane] = rows
			left := fmt.Sprintf("%4d%s", s.N, star)
			text := r.words()
			if r.more > 0 {
				left, text = "", fmt.Sprintf("... %d more", r.more)
			}
			star = ""
			for _, line := range wrap(text, width-3-len(bar)) {
				put(left, b.lane, bar+" "+line)
				left = ""
			}
		}
	}
	if d.story.Verdict != "" {
		first, _, _ := strings.Cut(d.story.Detail, "\n")
		fmt.Fprintf(&out, "\n=> %s\n", strings.TrimSuffix(d.story.Verdict+": "+first, ": "))
	}
	if d.story.Truncated {
		out.WriteString("(the run was longer than what was kept)\n")
	}
	return out.String()
}

// irqs reports whether a lane has steps of interrupt handlers.
func (d *drawing) irqs(lane int) bool {
	for i := range d.blocks {
		b := &d.blocks[i]
		if b.lane == lane && slices.ContainsFunc(b.rows, func(r row) bool { return r.first.IRQ }) {
			return true
		}
	}
	return false
}

// taskNames lists the tasks of each lane, and says where there is more than one.
func (d *drawing) taskNames() (names map[int]string, many map[int]bool) {
	names, many = map[int]string{}, map[int]bool{}
	ids := map[int]map[int]bool{}
	for i := range d.blocks {
		b := &d.blocks[i]
		for k := range b.rows {
			s := b.rows[k].first
			if s.IRQ || b.lane == DeviceLane {
				continue
			}
			if ids[b.lane] == nil {
				ids[b.lane] = map[int]bool{}
			}
			if ids[b.lane][s.TaskID] {
				continue
			}
			ids[b.lane][s.TaskID] = true
			if names[b.lane] != "" {
				names[b.lane] += ", "
				many[b.lane] = true
			}
			names[b.lane] += s.Task
		}
	}
	return names, many
}

// words describes a row: operation, object, and what it changed.
func (r *row) words() string {
	s := r.first
	op := s.Op
	if s.CPU == DeviceLane && s.OpID == x86.OpEvent {
		op = ""
	}
	text := strings.TrimSpace(op + " " + s.Object)
	switch {
	case r.count > 1 && r.last.ObjID != s.ObjID:
		text += " .. " + r.last.Object
	case r.count > 1:
		text += fmt.Sprintf(" (%d times)", r.count)
	}
	if s.Resumes {
		text = "goes on: " + text
	}
	if s.Waits {
		text += ": waits"
	}
	before, after := s.Before, r.last.After
	if b := r.bytes; b != nil {
		return text + ": " + b.String()
	}
	switch {
	case after == "" || r.last.ObjID != s.ObjID:
	case before == after && s.OpID.Writes():
		text += ": " + after + " (as before)"
	case before == after:
		text += ": " + after
	case before == "":
		text += ": " + after
	case strings.Contains(before+after, "|"):
		text += ":" + changedFlags(before, after)
	default:
		text += ": " + before + " -> " + changedPart(before, after)
	}
	return text
}

// changedFlags lists what came to a list of flags and what went: " +locked -dirty".
func changedFlags(before, after string) string {
	b, a := strings.Split(before, "|"), strings.Split(after, "|")
	text := ""
	for _, f := range a {
		if !slices.Contains(b, f) {
			text += " +" + f
		}
	}
	for _, f := range b {
		if !slices.Contains(a, f) {
			text += " -" + f
		}
	}
	return text
}

// changedPart is a description without the noun and number that it has in common with
// the one before: "page 5 RW AD -> RO AD".
func changedPart(before, after string) string {
	b, a := strings.Fields(before), strings.Fields(after)
	if len(a) > 2 && len(b) > 2 && a[0] == b[0] && a[1] == b[1] {
		return strings.Join(a[2:], " ")
	}
	return after
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n-2] + ".."
	}
	return s
}

// wrap breaks text into lines of at most n columns, at spaces; all but the first are indented.
func wrap(text string, n int) []string {
	const indent = "    "
	var lines []string
	for len(text) > n {
		cut := strings.LastIndexByte(text[:n+1], ' ')
		if cut <= len(indent) {
			cut = n
		}
		lines = append(lines, text[:cut])
		text = indent + strings.TrimLeft(text[cut:], " ")
	}
	return append(lines, text)
}
