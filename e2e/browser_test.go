package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// A browser is Chromium without a window, with one page in it.
type browser struct {
	context.Context
	t *testing.T
}

// newBrowser starts Chromium, or skips the test with one line where there is none.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed: pages are not looked at in a browser")
	}
	options := append([]chromedp.ExecAllocatorOption{}, chromedp.DefaultExecAllocatorOptions[:]...)
	options = append(options, chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WSURLReadTimeout(4*time.Minute))
	// Its directory is chromedp's own, which knows that parts of a browser write there after its end.
	for _, flag := range []string{"disable-quic", "disable-background-networking", "disable-component-update", "disable-sync", "no-first-run", "hide-scrollbars", "disable-dev-shm-usage"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	allocator, stop := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(cancel)
	b := &browser{ctx, t}
	b.do(chromedp.Navigate("about:blank"))
	return b
}

// do does things in the browser.
func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx := b.Context
	if chromedp.FromContext(ctx).Target != nil { // the first call's context is the browser's own
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
		defer cancel()
	}
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.t.Fatalf("chromium: %v", err)
	}
}

// ask evaluates an expression in the page.
func ask[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b, 2*time.Minute)
	defer cancel()
	v, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.t.Fatalf("chromium: %s: %v", expression, err)
	}
	return v
}

// show opens a file as a device of that width would, in light or dark.
func (b *browser) show(path string, width int, dark bool) {
	b.t.Helper()
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	b.do(chromedp.EmulateViewport(int64(width), 900), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	}), chromedp.Navigate("file://"+path))
}

// picture writes what is shown to the directory REQUORUM_PICTURES, for people, if there is one.
func (b *browser) picture(name string) {
	b.t.Helper()
	dir := os.Getenv("REQUORUM_PICTURES")
	if dir == "" {
		return
	}
	ctx, cancel := context.WithTimeout(b, 2*time.Minute)
	defer cancel()
	png, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatalf("chromium: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// inspectPage is inspect of a page that nobody has stored yet. What stores and members said is nowhere part of its code.
func (b *browser) inspectPage(page []byte, name string) {
	b.t.Helper()
	if strings.Contains(string(page), "<script") {
		b.t.Errorf("%s: what somebody said became part of the page's code", name)
	}
	path := filepath.Join(b.t.TempDir(), name+".html")
	if err := os.WriteFile(path, page, 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.inspect(path, name)
}

// inspect fails the test unless a page is fit to be read at every width and in both schemes, and loads nothing.
func (b *browser) inspect(path, name string) {
	b.t.Helper()
	for _, width := range []int{390, 1280} {
		for _, dark := range []bool{false, true} {
			where := fmt.Sprintf("%s %d dark=%v", name, width, dark)
			b.show(path, width, dark)
			b.picture(where)
			if wide := ask[int](b, "document.documentElement.scrollWidth"); wide > width {
				b.t.Errorf("%s: the page is %d wide, and has to be scrolled sideways; too wide: %v", where, wide, ask[[]string](b,
					fmt.Sprintf("[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > %d).map(e => e.tagName + ' ' + e.className + ' ' + e.textContent.slice(0, 40)).slice(0, 5)", width)))
			}
			if n := ask[int](b, "performance.getEntriesByType('resource').length + document.querySelectorAll('script, link, img, iframe').length"); n != 0 {
				b.t.Errorf("%s: the page loads %d things", where, n)
			}
			// The contrast that WCAG AA asks of text, of everything that is shown.
			faint := ask[[]string](b, contrast)
			if len(faint) > 0 {
				b.t.Errorf("%s: too little contrast: %q", where, faint)
			}
			if size := ask[float64](b, "Math.min(...[...document.querySelectorAll('body *')].filter(e => e.textContent.trim() && !e.closest('svg')).map(e => parseFloat(getComputedStyle(e).fontSize)))"); size < 12 {
				b.t.Errorf("%s: text of %v px cannot be read", where, size)
			}
		}
	}
}

// contrast lists texts whose colour is too close to what is behind them.
const contrast = `(() => {
  const parse = c => { const m = c.match(/[\d.]+/g).map(Number); return {r: m[0], g: m[1], b: m[2], a: m.length > 3 ? m[3] : 1}; };
  const light = c => [c.r, c.g, c.b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : Math.pow((v + .055) / 1.055, 2.4)).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.a > .99) return c; } return {r: 255, g: 255, b: 255}; };
  const found = new Set();
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('svg') || ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.add(e.className + ' ' + e.textContent.trim().slice(0, 30) + ' ' + ratio.toFixed(2));
  }
  return [...found].slice(0, 5);
})()`
