package claims

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// WriteText writes a line for each claim, and then the evidence.
func WriteText(w io.Writer, all []Settled) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "CLAIM\tVERDICT\tWHO\t")
	for _, s := range all {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", s.ID, s.word(), s.Who, s.Says)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, s := range all {
		if _, err := fmt.Fprintf(w, "\n%s\n", s.detail()); err != nil {
			return err
		}
	}
	return nil
}

// WriteList writes a line for each claim, without running anything.
func WriteList(w io.Writer, all []Claim) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "CLAIM\tLINES\tWHO\t")
	for _, c := range all {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", c.ID, c.Lines, c.Who, c.Says)
	}
	return tw.Flush()
}

// WriteJSON writes the claims as an object with a list, "claims".
func WriteJSON(w io.Writer, all []Settled) error {
	if all == nil {
		all = []Settled{}
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(struct {
		Claims []Settled `json:"claims"`
	}{all})
}

// word is the verdict, or that there is none.
func (s *Settled) word() string {
	if s.Error != "" {
		return "error"
	}
	return string(s.Verdict)
}

// detail is everything about one claim.
func (s *Settled) detail() string {
	out := fmt.Sprintf("%s (%s, thread lines %s)\n  %s\n  ran: %s; %s\n  %s", s.ID, s.Who, s.Lines, s.Says, s.Ran, s.Bound, s.word())
	if s.On != "" {
		out += ": " + s.On
	}
	if s.Error != "" {
		out += ": " + s.Error
	}
	for _, e := range s.Evidence {
		out += "\n    " + e.String()
	}
	return out
}
