package spec

// known returns the finding that a hole belongs to; zero if it is new.
func known(*Hole) int { return 0 }
