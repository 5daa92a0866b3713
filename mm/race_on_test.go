//go:build race

package mm

const race = true
