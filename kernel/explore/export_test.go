package explore

// Checksum lets tests make tokens that are wrong in other ways.
func Checksum(s string) string { return checksum(s) }
