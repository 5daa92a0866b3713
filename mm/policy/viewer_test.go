package policy

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/cowlab/cowlab/arch/x86"
	"github.com/cowlab/cowlab/kernel/explore"
)

// noBrowserVar is set by .ci/run where it could not install a browser.
const noBrowserVar = "COWLAB_NO_BROWSER"

// browser returns a Chromium to test with. Without one the test is skipped, except in
// continuous integration, which installs one: there it fails.
func browser(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell", "chrome-headless-shell"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	if os.Getenv("CI") != "" && os.Getenv(noBrowserVar) == "" {
		t.Fatalf("no Chromium in the path, and CI is set: install one, or say with %s=1 that it is impossible", noBrowserVar)
	}
	t.Skip("THE VIEWER IS NOT TESTED: no Chromium in the path (chromium, google-chrome or headless-shell)")
	return ""
}

// c1Page writes the viewer of the race of C1 and returns its story and its URL.
func c1Page(t *testing.T) (*explore.Story, string) {
	story := captureC1(c1Target(PGGUP{noRecheck: true}), c1Spec(t))
	file := filepath.Join(t.TempDir(), "c1.html")
	f, err := os.Create(file)
	require.NoError(t, err)
	require.NoError(t, story.HTML(f, explore.DiagramOptions{Show: racing}))
	require.NoError(t, f.Close())
	return story, "file://" + file
}

// c1Spec is the schedule of testdata/c1.txt.
func c1Spec(t *testing.T) explore.Spec {
	drawn, err := os.ReadFile("testdata/c1.txt")
	require.NoError(t, err)
	tok, err := explore.ParseToken(c1Token(t, string(drawn)))
	require.NoError(t, err)
	return tok.Spec
}

// viewer is the page in a browser.
type viewer struct {
	t   *testing.T
	ctx context.Context
}

func (v *viewer) do(actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	require.NoError(v.t, chromedp.Do(v.ctx, actions...))
}

// text evaluates an expression to a string.
func (v *viewer) text(js string) string {
	v.t.Helper()
	s, err := chromedp.Run(v.ctx, chromedp.Evaluate[string]("String("+js+")"))
	require.NoError(v.t, err)
	return s
}

// cell reads a cell of a panel: the row whose text holds all words, the column's value now.
func (v *viewer) cell(panel, column string, words ...string) string {
	v.t.Helper()
	cond := "true"
	for _, w := range words {
		cond += " && [...r.cells].some(c => c.dataset.now === '" + w + "')"
	}
	return v.text(`(() => {
		const r = [...document.querySelectorAll('[data-panel=` + panel + `] tbody tr')].find(r => ` + cond + `);
		return r ? [...r.cells].find(c => c.dataset.col === '` + column + `').dataset.now : 'no row';
	})()`)
}

// TestViewer opens the HTML of the race of C1 in a browser, steps through it with keys and
// slider, and reads the panels.
func TestViewer(t *testing.T) {
	path := browser(t)
	story, url := c1Page(t)
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox)
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	defer stop()
	complaints := make(chan string, 100)
	ctx, done := chromedp.NewContext(alloc, chromedp.WithListener(func(ev any) {
		text := ""
		switch ev := ev.(type) {
		case *runtime.EventExceptionThrown:
			text = ev.ExceptionDetails.Text
			if e := ev.ExceptionDetails.Exception; e != nil {
				text += " " + e.Description
			}
		case *runtime.EventConsoleAPICalled:
			text = "console: " + string(ev.Type)
		case *log.EventEntryAdded:
			text = "log: " + ev.Entry.Text
		default:
			return
		}
		select {
		case complaints <- text:
		default: // a hundred are enough
		}
	}))
	defer done()
	require.NoError(t, chromedp.Do(ctx))                   // starts the browser, which lives as long as ctx
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute) // a bound, not an expectation
	defer cancel()
	v := &viewer{t, ctx}
	v.do(chromedp.EmulateViewport(1400, 900), chromedp.Navigate(url), chromedp.WaitReady(chromedp.CSS("#where")))

	// The step that write-protects the parent's entry, and where the slider has it.
	wrprotect, at := 0, 0
	for i := range story.Steps {
		s := &story.Steps[i]
		if racing(s) {
			at++
			if s.Func == "copy_one_pte" && s.OpID == x86.OpPTERMW {
				wrprotect = s.N
				break
			}
		}
	}
	require.NotZero(t, wrprotect)
	step := func() string { return v.text("document.body.dataset.step") }

	slide := func(to string) {
		v.text(`(() => { const s = document.getElementById('slider');
			s.value = ` + to + `; s.dispatchEvent(new Event('input', {bubbles: true})); })()`)
	}

	t.Run("slider", func(t *testing.T) {
		slide("0")
		assert.Equal(t, "0", step())
		before := v.text("document.getElementById('panels').innerText")
		assert.Equal(t, "RW", v.cell("pt", "access", "mm 1", "0x10000", "pte"))
		assert.Equal(t, "no row", v.cell("pt", "access", "mm 2", "0x10000", "pte"))
		slide("1e9")
		assert.Equal(t, v.text("document.getElementById('slider').max"), v.text("document.getElementById('slider').value"))
		assert.NotEqual(t, before, v.text("document.getElementById('panels').innerText"))
		assert.Equal(t, "no row", v.cell("pt", "access", "mm 1", "0x10000", "pte"), "the address space is gone")
	})

	t.Run("keys", func(t *testing.T) {
		v.do(chromedp.KeyEvent(kb.Home))
		for range at - 1 {
			v.do(chromedp.KeyEvent(kb.ArrowRight))
		}
		assert.Equal(t, "RW", v.cell("pt", "access", "mm 1", "0x10000", "pte"), "one step before fork write-protects")
		v.do(chromedp.KeyEvent(kb.ArrowRight))
		assert.Equal(t, strconv.Itoa(wrprotect), step())
		assert.Equal(t, "RO", v.cell("pt", "access", "mm 1", "0x10000", "pte"), "fork has write-protected the entry")
		assert.Contains(t, v.text("document.getElementById('where').innerText"), "copy_one_pte()")
		assert.Equal(t, "RWRO", v.text(`[...document.querySelectorAll('[data-panel=pt] td.changed')].map(e => e.querySelector('del').textContent + e.querySelector('ins').textContent).join()`),
			"what changed is marked, with what it was")
		assert.Equal(t, "stale: entry is RO", v.cell("tlb", "page table", "CPU 0", "0x10000"), "the other CPU may still write")
		v.do(chromedp.KeyEvent(kb.ArrowLeft))
		assert.Equal(t, "RW", v.cell("pt", "access", "mm 1", "0x10000", "pte"), "and back")
		v.do(chromedp.Focus(chromedp.CSS("#slider")), chromedp.KeyEvent(kb.ArrowRight))
		assert.Equal(t, strconv.Itoa(wrprotect), step(), "the slider's own keys move it once")
		v.do(chromedp.KeyEvent(kb.End))
		last := step()
		v.do(chromedp.KeyEvent(kb.ArrowRight))
		assert.Equal(t, last, step(), "nothing comes after the end")
	})

	t.Run("the device's byte", func(t *testing.T) {
		n := 0
		for _, s := range story.Steps {
			if s.OpID == x86.OpDMAWrite {
				n = s.N
			}
		}
		require.NotZero(t, n)
		v.do(chromedp.Click(chromedp.Search(`//button[contains(., 'dma write')]`)))
		assert.Equal(t, strconv.Itoa(n), step())
		assert.Contains(t, v.cell("bytes", "bytes", "page 5", "200-20f"), "aa 00 00")
		assert.Equal(t, "page 132", v.cell("pt", "leads to", "mm 1", "0x10000", "pte"), "which the parent does not see")
		held := v.cell("page", "held by", "page 5")
		assert.Contains(t, held, "pin 1")
	})

	t.Run("every step", func(t *testing.T) {
		v.do(chromedp.Click(chromedp.CSS("#every")))
		assert.Equal(t, strconv.Itoa(len(story.Steps)), v.text("document.getElementById('slider').max"))
		v.do(chromedp.Click(chromedp.CSS("#every")))
	})

	t.Run("labels", func(t *testing.T) {
		assert.Empty(t, v.text(`[...document.querySelectorAll('button, input, section')].filter(e =>
			!(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label'))).map(e => e.outerHTML)`))
		assert.Equal(t, "1", v.text(`document.querySelectorAll('[aria-current=step]').length`))
		assert.Contains(t, v.text("document.getElementById('slider').getAttribute('aria-valuetext')"), "end")
		assert.Contains(t, v.text("document.querySelector('#astext pre').textContent"), "=> lost-read")
		assert.Equal(t, story.Command(), v.text("document.getElementById('replay').textContent"))
	})

	for _, c := range []struct {
		name  string
		width int64
		dark  bool
	}{{"phone", 360, false}, {"dark phone", 360, true}, {"desktop", 1400, false}} {
		t.Run(c.name, func(t *testing.T) {
			scheme := "light"
			if c.dark {
				scheme = "dark"
			}
			v.do(chromedp.EmulateViewport(c.width, 780))
			_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
			require.NoError(t, err)
			for _, key := range []string{kb.Home, kb.ArrowRight, kb.End} {
				v.do(chromedp.KeyEvent(key))
				assert.Equal(t, strconv.Itoa(int(c.width)), v.text("document.documentElement.scrollWidth"), "nothing sticks out to the right")
			}
			assert.Equal(t, c.dark, v.text("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)")
			slide(strconv.Itoa(at))
			shot(t, v, c.name)
		})
	}
	assert.Empty(t, v.text("document.querySelectorAll('[src], link, [style*=url]').length || ''"), "nothing is loaded")
	require.NoError(t, chromedp.Do(ctx))
	if len(complaints) > 0 {
		t.Errorf("the page is not silent: %s", <-complaints)
	}
}

// shot saves a picture of the page for people, if COWLAB_SHOTS names a directory.
func shot(t *testing.T, v *viewer, name string) {
	dir := os.Getenv("COWLAB_SHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(v.ctx, chromedp.FullScreenshot(100))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".png"), png, 0o644))
}
