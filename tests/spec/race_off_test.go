//go:build !race

package spec

const race = false
