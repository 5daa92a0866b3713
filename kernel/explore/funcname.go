package explore

import (
	"runtime"
	"strings"
	"unicode"

	"github.com/cowlab/cowlab/kernel/sched"
)

// acronyms are the words that names write in capitals, so that a run of capitals
// can be cut: FlushTLBMM is flush, tlb, mm.
var acronyms = [...]string{
	"HUGETLB", "SHMEM", "AIO", "BIO", "CAS", "COW", "CPU", "DIO", "DMA", "EIO", "FS", "GFP", "GUP", "IO", "IOV", "IPI", "IRQ", "KSM", "LRU",
	"MM", "MMU", "OOM", "PFN", "PGD", "PMD", "PTE", "PTL", "PUD", "RAM", "RCU", "RMW", "RSS", "TLB", "VFS", "VM", "VMA", "WP", "CR3", "UP", "ID",
}

// KernelName turns a Go function's name, as runtime.Frame has it, into the way
// the kernel writes it: "mm.(*MM).copyOnePTE" is copy_one_pte. Closures get
// the name of the function they stand in. exceptions, which may be nil, maps "Func",
// "Type.Func" or "pkg.Type.Func" to what is to be printed instead.
func KernelName(goName string, exceptions map[string]string) string {
	pkg, typ, fn := splitGoName(goName)
	full := fn
	if typ != "" {
		full = typ + "." + fn
	}
	for _, key := range [...]string{pkg + "." + full, full, fn} {
		if s, ok := exceptions[key]; ok {
			return s
		}
	}
	return snake(fn)
}

// splitGoName cuts a name into the last element of the package's path, the
// receiver's type ("" if none) and the function.
func splitGoName(name string) (pkg, typ, fn string) {
	name = name[strings.LastIndexByte(name, '/')+1:]
	pkg, rest, _ := strings.Cut(name, ".")
	if i := strings.IndexByte(rest, '['); i >= 0 { // type arguments
		if j := strings.LastIndexByte(rest, ']'); j > i {
			rest = rest[:i] + rest[j+1:]
		}
	}
	if recv, after, ok := strings.Cut(rest, ")."); ok && strings.HasPrefix(recv, "(") {
		typ, rest = strings.TrimLeft(recv, "(*"), after
	}
	part := strings.Split(rest, ".")
	for len(part) > 1 && closure(part[len(part)-1]) {
		part = part[:len(part)-1]
	}
	if typ == "" && len(part) > 1 {
		typ, part = part[0], part[1:]
	}
	return pkg, typ, strings.TrimSuffix(part[0], "-fm")
}

// closure reports whether part of a name is what the compiler adds: func1, 2, func1-range1, gowrap1.
func closure(s string) bool {
	for _, p := range [...]string{"func", "gowrap", "deferwrap"} {
		s = strings.TrimPrefix(s, p)
	}
	return s == "" || s[0] >= '0' && s[0] <= '9'
}

// snake turns CamelCase into snake_case.
func snake(s string) string {
	r := []rune(s)
	var words []string
	for i := 0; i < len(r); {
		j := i + 1
		if unicode.IsUpper(r[i]) {
			for j < len(r) && unicode.IsUpper(r[j]) {
				j++
			}
			plural := j-i > 1 && j < len(r) && r[j] == 's' && (j+1 == len(r) || unicode.IsUpper(r[j+1]))
			if !plural && j < len(r) && unicode.IsLower(r[j]) && j-i > 1 {
				j-- // the last capital begins the next word
			}
			if j-i > 1 {
				words = append(words, cutCapitals(string(r[i:j]))...)
				i = j
				for ; i < len(r) && (unicode.IsDigit(r[i]) || plural); i++ { // VMAs, CAS32
					words[len(words)-1] += string(r[i])
					plural = false
				}
				continue
			}
		}
		for j < len(r) && !unicode.IsUpper(r[j]) {
			j++
		}
		words = append(words, strings.Trim(string(r[i:j]), "_"))
		i = j
	}
	return strings.ToLower(strings.Join(words, "_"))
}

// cutCapitals cuts a run of capitals into acronyms, as few and long as they go;
// if that is not possible it is one word.
func cutCapitals(s string) []string {
	if s == "" {
		return nil
	}
	best := []string{s}
	cut := false
	for _, a := range acronyms {
		if a == s {
			return []string{s}
		}
		if rest, ok := strings.CutPrefix(s, a); ok {
			words := cutCapitals(rest)
			known := len(words) > 1 || isAcronym(rest)
			if known && (!cut || len(words)+1 < len(best)) {
				best, cut = append([]string{a}, words...), true
			}
		}
	}
	return best
}

func isAcronym(s string) bool {
	for _, a := range acronyms {
		if a == s {
			return true
		}
	}
	return false
}

// callers is the stack above a schedule point, as far as it concerns the reader.
type callers struct {
	names []string // Go functions, innermost first, without processor, locks and scheduler
	sched bool     // the step is the scheduler's own
}

const modulePath = "github.com/cowlab/cowlab/"

// plumbing are the packages whose functions diagrams pass over: what stands
// below the kernel functions that a reader knows.
var plumbing = [...]string{
	modulePath + "arch/x86", modulePath + "kernel/sched", modulePath + "kernel/lock",
	modulePath + "kernel/explore", modulePath + "mm/page", "runtime", "iter",
}

// stackAbove reads the stack of the caller of an observer. irq cuts it at the
// interrupted code.
func stackAbove(irq bool) (c callers) {
	var pcs [96]uintptr
	n := sched.Caller(2, pcs[:])
	frames := runtime.CallersFrames(n)
	begun := false // past the schedule point
	for {
		f, more := frames.Next()
		pkg := packageOf(f.Function)
		fn := strings.TrimPrefix(f.Function, pkg+".")
		switch pkg {
		case modulePath + "kernel/sched":
			switch fn {
			case "(*Machine).Point", "(*Task).Point":
			case "(*Machine).Interrupts":
				c.sched = c.sched || !begun
				if irq {
					return c
				}
			case "(*Task).switchAway", "(*Machine).idleLoop":
				c.sched = true
			default:
				c.sched = c.sched || !begun
			}
			if fn != "(*Machine).Point" && fn != "(*Task).Point" {
				begun = true
			}
		case modulePath + "arch/x86", modulePath + "kernel/explore":
		default:
			if !begun && strings.HasSuffix(fn, ").Step") {
				break // an observer that passes steps on
			}
			begun = true
			if !isPlumbing(pkg) && f.Function != "" {
				c.names = append(c.names, f.Function)
			}
		}
		if !more {
			return c
		}
	}
}

func isPlumbing(pkg string) bool {
	for _, p := range plumbing {
		if p == pkg {
			return true
		}
	}
	return false
}

// packageOf returns the import path of a function's package.
func packageOf(fn string) string {
	slash := strings.LastIndexByte(fn, '/') + 1
	dot := strings.IndexByte(fn[slash:], '.')
	if dot < 0 {
		return fn
	}
	return fn[:slash+dot]
}
