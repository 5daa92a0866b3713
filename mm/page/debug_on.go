//go:build race || cowlabdebug

package page

// debug says that references are recorded whatever the regime.
const debug = true
