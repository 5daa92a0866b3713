package trace

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
)

// WritePerfetto writes events as Chrome trace JSON, for ui.perfetto.dev or
// chrome://tracing.
//
//	CPU 0  |--- writer ------------------||--- swapper ---|
//	         |- page fault --------------|
//	            |- ipi send -|~~~~~.
//	CPU 1  |--- reader ------------|  v             |--
//	         |- gup_fast -| |- irq --------|
//	devices   . dma_chunk  . dma_chunk
//	device io 0  |- bio read ------------|
//
// There is a track for each CPU (tid is the CPU's number), one for device
// events, and as many as are needed for requests in flight. A CPU's track
// shows the task that runs and inside it the slices of begin and end events.
// A slice belongs to a task: when another task takes the CPU the slices are
// cut, and they go on ("resumed") where the task runs next, so that slices on
// a track always nest. Events without duration are instants; interrupts sent
// and taken, requests submitted and completed, and pages pinned and unpinned
// get a slice of at most a microsecond each, from which arrows start and end. An
// end whose begin the ring has forgotten is an instant.
//
// The number of pinned pages is drawn as a counter track. Timestamps are
// microseconds with three decimals. An arrow that points back in time, which
// clocks that do not agree produce, is for the viewer to drop: use [View.Steps].
func WritePerfetto(w io.Writer, events []Event, v View) error {
	p := newPerfetto(events, v)
	for _, e := range events {
		if e.Kind < NumEventKinds && e.Kind != EvNone {
			p.event(e)
		}
	}
	p.finish()
	return p.write(w)
}

// micros is a number of nanoseconds, printed in microseconds.
type micros uint64

// MarshalJSON implements [json.Marshaler].
func (m micros) MarshalJSON() ([]byte, error) {
	return fmt.Appendf(nil, "%d.%03d", m/1000, m%1000), nil
}

// chromeEvent is one element of traceEvents.
type chromeEvent struct {
	Name  string         `json:"name"`
	Cat   string         `json:"cat,omitempty"`
	Phase string         `json:"ph"`
	TS    *micros        `json:"ts,omitempty"`
	Dur   *micros        `json:"dur,omitempty"`
	PID   int            `json:"pid"`
	TID   int            `json:"tid"`
	ID    uint64         `json:"id,omitempty"`
	Scope string         `json:"s,omitempty"`
	Bind  string         `json:"bp,omitempty"`
	Args  map[string]any `json:"args,omitempty"`
}

// write streams the document: one event on a line.
func (p *perfetto) write(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, `{"displayTimeUnit":"ns","otherData":{"dropped_events":"%d"},"traceEvents":[`+"\n", p.view.Dropped)
	enc := json.NewEncoder(b) // ends each value with a newline
	first := true
	put := func(e *chromeEvent) error {
		if !first {
			b.WriteByte(',')
		}
		first = false
		return enc.Encode(e)
	}
	for _, e := range p.metadata() {
		if err := put(&e); err != nil {
			return err
		}
	}
	for i := range p.items {
		it := &p.items[i]
		e := chromeEvent{Name: it.name, Cat: it.cat, Phase: string(it.phase), PID: perfettoPID, TID: it.tid,
			ID: it.arrow, Args: it.args}
		e.TS = &it.start
		switch it.phase {
		case 'X':
			dur := it.end - it.start
			e.Dur = &dur
		case 'i':
			e.Scope = "t"
		case 'f':
			e.Bind = "e"
		}
		if err := put(&e); err != nil {
			return err
		}
	}
	b.WriteString("]}\n")
	return b.Flush()
}

// metadata names the process and its tracks and fixes their order.
func (p *perfetto) metadata() []chromeEvent {
	meta := []chromeEvent{{Name: "process_name", Phase: "M", PID: perfettoPID,
		Args: map[string]any{"name": "cowlab machine"}}}
	name := func(tid int, s string) {
		meta = append(meta,
			chromeEvent{Name: "thread_name", Phase: "M", PID: perfettoPID, TID: tid, Args: map[string]any{"name": s}},
			chromeEvent{Name: "thread_sort_index", Phase: "M", PID: perfettoPID, TID: tid,
				Args: map[string]any{"sort_index": tid}})
	}
	for i := range p.cpus {
		name(i, fmt.Sprintf("CPU %d", i))
	}
	name(p.deviceTID(), "devices")
	for i := range p.lanes {
		name(p.deviceTID()+1+i, fmt.Sprintf("device io %d", i))
	}
	return meta
}
