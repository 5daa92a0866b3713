package vmtest_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// recorder is a testing.TB that may fail without failing anybody: it notes what it is told.
type recorder struct {
	testing.TB
	mu       sync.Mutex
	log      strings.Builder // protected by mu
	failed   bool            // protected by mu
	skipped  bool            // protected by mu
	finished bool            // fn has returned; for whoever ran it
	cleanups []func()        // of the goroutine that runs the test
}

// record runs fn as a test of its own, cleanups included.
func record(t *testing.T, fn func(tb testing.TB)) *recorder {
	r := &recorder{TB: t}
	r.goexits(func() {
		fn(r)
		r.finished = true
	})
	for len(r.cleanups) > 0 {
		last := len(r.cleanups) - 1
		f := r.cleanups[last]
		r.cleanups = r.cleanups[:last]
		r.goexits(f)
	}
	return r
}

// goexits runs f on a goroutine of its own, since f may end it.
func (r *recorder) goexits(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}

// text is everything that was logged.
func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.String()
}

func (r *recorder) note(text string, failed, skipped bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text != "" {
		fmt.Fprintln(&r.log, strings.TrimSpace(text))
	}
	r.failed = r.failed || failed
	r.skipped = r.skipped || skipped
}

func (r *recorder) Helper()                      {}
func (r *recorder) Name() string                 { return "TestRecorded" }
func (r *recorder) Cleanup(f func())             { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Log(a ...any)                 { r.note(fmt.Sprintln(a...), false, false) }
func (r *recorder) Logf(format string, a ...any) { r.note(fmt.Sprintf(format, a...), false, false) }
func (r *recorder) Fail()                        { r.note("", true, false) }
func (r *recorder) Error(a ...any)               { r.note(fmt.Sprintln(a...), true, false) }
func (r *recorder) Errorf(format string, a ...any) {
	r.note(fmt.Sprintf(format, a...), true, false)
}

func (r *recorder) FailNow() {
	r.Fail()
	runtime.Goexit()
}

func (r *recorder) Fatal(a ...any) {
	r.Error(a...)
	runtime.Goexit()
}

func (r *recorder) Fatalf(format string, a ...any) {
	r.Errorf(format, a...)
	runtime.Goexit()
}

func (r *recorder) SkipNow() {
	r.note("", false, true)
	runtime.Goexit()
}

func (r *recorder) Skip(a ...any) {
	r.note(fmt.Sprintln(a...), false, true)
	runtime.Goexit()
}

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *recorder) Skipped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}
