package explore

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Panel describes a table of a story's state: page tables, struct pages, TLBs, bytes.
// What the tables are is the business of who fills them; see CaptureOptions.Snapshot.
type Panel struct {
	// ID is its short name, for commands.
	ID string `json:"id"`
	// Title and Columns are for people.
	Title   string   `json:"title"`
	Columns []string `json:"columns"`
	// Names is how many of the first columns name a row.
	Names int `json:"names"`
}

// Key places a row in its panel: rows are in ascending order of keys.
type Key struct{ Hi, Lo uint64 }

// String is the key as JSON has it: hexadecimal digits whose order is that of the keys.
func (k Key) String() string { return fmt.Sprintf("%08x.%016x", k.Hi, k.Lo) }

// MarshalJSON implements json.Marshaler.
func (k Key) MarshalJSON() ([]byte, error) { return json.Marshal(k.String()) }

// UnmarshalJSON implements json.Unmarshaler.
func (k *Key) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if n, err := fmt.Sscanf(s, "%x.%x", &k.Hi, &k.Lo); n != 2 {
		return fmt.Errorf("explore: the key %q is not two hexadecimal numbers: %w", s, err)
	}
	return nil
}

func (k Key) compare(o Key) int {
	switch {
	case k.Hi != o.Hi && k.Hi < o.Hi, k.Hi == o.Hi && k.Lo < o.Lo:
		return -1
	case k == o:
		return 0
	}
	return 1
}

// Change is a row that came, changed, or went.
type Change struct {
	// Panel is the index of the panel.
	Panel int `json:"p"`
	Key   Key `json:"k"`
	// Cells are the row's texts from now on; none if the row is gone.
	Cells []string `json:"c,omitempty"`
}

// Row is a row of a panel at some step.
type Row struct {
	Key   Key
	Cells []string
	// Was is the row before the step, nil if it has just come; it equals Cells
	// where the step changed nothing. Cells is nil if the row has just gone.
	Was []string
}

// Changed reports whether the step changed the row.
func (r *Row) Changed() bool { return !slices.Equal(r.Cells, r.Was) }

// Rows returns the rows of a panel as they are after step n, 0 meaning before the first,
// by key. Rows that the step took away are among them, so that what changed can be shown.
func (s *Story) Rows(panel, n int) []Row {
	rows := map[Key]*Row{}
	apply := func(changes []Change, last bool) {
		for _, c := range changes {
			if c.Panel != panel {
				continue
			}
			r := rows[c.Key]
			if r == nil {
				r = &Row{Key: c.Key}
				rows[c.Key] = r
			}
			r.Cells = c.Cells
			if !last {
				r.Was = c.Cells
				if c.Cells == nil {
					delete(rows, c.Key)
				}
			}
		}
	}
	apply(s.Start, false)
	for i := 0; i < min(n, len(s.Steps)); i++ {
		apply(s.Steps[i].Changes, i == n-1)
	}
	out := make([]Row, 0, len(rows))
	for _, r := range rows {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Row) int { return a.Key.compare(b.Key) })
	return out
}

// PanelIndex returns the index of a panel, -1 if the story has none of that name.
func (s *Story) PanelIndex(id string) int {
	return slices.IndexFunc(s.Panels, func(p Panel) bool { return p.ID == id })
}

// ChangeText describes what a step did to a row of a panel, in one line.
func (p *Panel) ChangeText(r *Row) string {
	cells := r.Cells
	if cells == nil {
		cells = r.Was
	}
	n := min(p.Names, len(cells))
	name := strings.Join(cells[:n], " ")
	switch {
	case r.Was == nil:
		return name + ": new: " + strings.Join(cells[n:], ", ")
	case r.Cells == nil:
		return name + ": gone"
	}
	var parts []string
	for i := range r.Cells {
		if r.Cells[i] != r.Was[i] {
			parts = append(parts, fmt.Sprintf("%s: %s -> %s", p.Columns[i], r.Was[i], r.Cells[i]))
		}
	}
	return name + ": " + strings.Join(parts, "; ")
}

// stateSink is a sink that notes what changed since it was last filled.
type stateSink struct {
	panels []Panel
	rows   []map[Key]seen // by panel
	round  uint64
	at     int // panel being filled
	key    Key
	out    []Change
}

type seen struct {
	sum   uint64
	round uint64
	cells []string
}

// begin starts a round.
func (k *stateSink) begin() {
	k.round++
	k.at = -1
	k.out = nil
}

// Panel begins a table; rounds fill the same ones in the same order.
func (k *stateSink) Panel(id, title string, names int, columns ...string) {
	k.at++
	if k.at == len(k.panels) {
		k.panels = append(k.panels, Panel{id, title, columns, names})
		k.rows = append(k.rows, map[Key]seen{})
	}
}

// Row begins a row; false if it is as it was.
func (k *stateSink) Row(hi, lo, sum uint64) bool {
	k.key = Key{hi, lo}
	r, ok := k.rows[k.at][k.key]
	fresh := !ok || r.sum != sum
	r.sum, r.round = sum, k.round
	k.rows[k.at][k.key] = r
	return fresh
}

// Cells fills the row in.
func (k *stateSink) Cells(cells ...string) {
	r := k.rows[k.at][k.key]
	if slices.Equal(r.cells, cells) {
		return
	}
	r.cells = slices.Clone(cells)
	k.rows[k.at][k.key] = r
	k.out = append(k.out, Change{k.at, k.key, r.cells})
}

// end finishes a round and returns what changed, by panel and key.
func (k *stateSink) end() []Change {
	for p, rows := range k.rows {
		for key, r := range rows {
			if r.round != k.round {
				delete(rows, key)
				if r.cells != nil {
					k.out = append(k.out, Change{Panel: p, Key: key})
				}
			}
		}
	}
	slices.SortFunc(k.out, func(a, b Change) int {
		if a.Panel != b.Panel {
			return a.Panel - b.Panel
		}
		return a.Key.compare(b.Key)
	})
	return k.out
}
