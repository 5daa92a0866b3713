//go:build !race

package claims

const underRace = false
