//go:build !race

package claims

// raceBuild: see flip_race_on_test.go.
const raceBuild = false
