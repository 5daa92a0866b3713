package spec

// Known returns the section of docs/findings.md that a hole belongs to; zero if it is new.
func Known(policy, verdict string, kinds []string) int { return 0 }
