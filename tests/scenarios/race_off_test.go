//go:build !race

package scenarios

const race = false
