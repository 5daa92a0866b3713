package explore

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"strings"
)

//go:embed html/viewer.html
var viewerHTML string

//go:embed html/viewer.css
var viewerCSS string

//go:embed html/viewer.js
var viewerJS string

// HTML writes the story as one HTML file that needs nothing else: no network, no other
// file. It has a slider over the steps, a column for each CPU, for its interrupts and for
// devices, and the story's panels as they are after the step, with what has changed since
// the step before. The diagram is part of it as text; o says how to draw that, and
// which steps the slider stops at.
func (s *Story) HTML(w io.Writer, o DiagramOptions) error {
	s.fillText()
	shown := *s
	if o.Show != nil {
		shown.Steps = append([]Step(nil), s.Steps...)
		for i := range shown.Steps {
			shown.Steps[i].Shown = o.Show(&s.Steps[i])
		}
	}
	var data bytes.Buffer
	if err := json.NewEncoder(&data).Encode(&shown); err != nil { // escapes < and >
		return fmt.Errorf("explore: HTML: %w", err)
	}
	text := s.Diagram(o)
	if s.Legend != "" {
		text = s.Legend + "\n\n" + text
	}
	// A Replacer does not look at what it has put in: the story may hold any text.
	_, err := strings.NewReplacer(
		"{{replay}}", html.EscapeString(s.Command()),
		"{{title}}", html.EscapeString(fmt.Sprintf("%s under %s", s.Target, s.Policy)),
		"{{css}}", viewerCSS, "{{js}}", viewerJS,
		"{{text}}", html.EscapeString(text),
		"{{story}}", strings.TrimSpace(data.String()),
	).WriteString(w, viewerHTML)
	return err
}
