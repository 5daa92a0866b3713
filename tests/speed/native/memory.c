/* Loads, copies, faults and the calls that walk page tables. */
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

/* The address sequence of load and store is the one of hitStride and hitSpan
 * in floor.go: another page at each step, every line of 256 KiB in the end. */
#define HIT_STRIDE 4160UL
#define HIT_SPAN (256UL << 10)
#define MIB (1UL << 20)

static char *area;
static char *other;
static long area_pages;

static int setup_hits(void)
{
	area = region(HIT_SPAN / PAGE, 1);
	return area ? 0 : -1;
}

static double run_load(long n)
{
	uint64_t off = 0, sum = 0;
	double t = now();

	for (long i = 0; i < n; i++) {
		sum += *(volatile uint64_t *)(area + off);
		off = (off + HIT_STRIDE) & (HIT_SPAN - 1);
	}
	t = now() - t;
	keep(&sum);
	return t / n;
}

static double run_store(long n)
{
	uint64_t off = 0;
	double t = now();

	for (long i = 0; i < n; i++) {
		*(volatile uint64_t *)(area + off) = i;
		off = (off + HIT_STRIDE) & (HIT_SPAN - 1);
	}
	return (now() - t) / n;
}

static int setup_copy(void)
{
	area = region(MIB / PAGE, 1);
	other = region(MIB / PAGE, 1);
	return area && other ? 0 : -1;
}

static double run_copy(long n)
{
	double t = now();

	for (long i = 0; i < n; i++) {
		memcpy(other, area, MIB);
		keep(other);
	}
	return (now() - t) / n;
}

static double run_fault(long n)
{
	char *p = region(n, 0);
	double t;

	if (!p)
		return -1;
	t = now();
	touch(p, n);
	t = now() - t;
	munmap(p, n * PAGE);
	return t / n;
}

static double run_populate(long n)
{
	double t = now();
	char *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	t = now() - t;
	if (p == MAP_FAILED)
		return fail("mmap", errno);
	munmap(p, n * PAGE);
	return t / n;
}

static double run_munmap(long n)
{
	char *p = region(n, 1);
	double t;

	if (!p)
		return -1;
	t = now();
	munmap(p, n * PAGE);
	return (now() - t) / n;
}

/* held keeps one touched region of n pages from run to run. */
static char *held(long n)
{
	if (area && area_pages != n) {
		munmap(area, area_pages * PAGE);
		area = NULL;
	}
	if (!area)
		area = region(n, 0);
	if (!area)
		return NULL;
	area_pages = n;
	touch(area, n); /* every pte present, dirty and writable */
	return area;
}

static double run_mprotect(long n)
{
	char *p = held(n);
	double t;
	int err;

	if (!p)
		return -1;
	t = now();
	err = mprotect(p, n * PAGE, PROT_READ);
	t = now() - t;
	if (err || mprotect(p, n * PAGE, PROT_READ | PROT_WRITE))
		return fail("mprotect", errno);
	return t / n;
}

/* The two ends of a move differ modulo 2 MiB, so that the kernel has to move
 * pte by pte and can neither move a whole table nor realign the move. */
static double run_mremap(long n)
{
	static char *window[2];
	static long pages;
	static int at;
	char *from, *to;
	double t;

	if (!window[0]) {
		for (int i = 0; i < 2; i++) {
			size_t room = n * PAGE + 4 * (2UL << 20);
			char *p = mmap(NULL, room, PROT_NONE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
			if (p == MAP_FAILED)
				return fail("mmap", errno);
			p = (char *)(((uintptr_t)p + (2UL << 20) - 1) & ~((2UL << 20) - 1));
			window[i] = p + (i ? 37 : 5) * PAGE;
		}
		pages = n;
		at = 0;
		if (mmap(window[0], n * PAGE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
			return fail("mmap", errno);
		madvise(window[0], n * PAGE, MADV_NOHUGEPAGE);
	}
	if (n != pages)
		return fail("mremap takes the same count at each run", 0);
	from = window[at];
	to = window[!at];
	touch(from, n);
	t = now();
	if (mremap(from, n * PAGE, n * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED)
		return fail("mremap", errno);
	t = now() - t;
	at = !at;
	return t / n;
}

/* The remote form of get_user_pages behind process_vm_readv, with the copy of
 * each page into a warm buffer of 1 MiB. */
static double run_gup_slow(long n)
{
	char *p = held(n);
	double t;

	if (!p)
		return -1;
	if (!other && !(other = region(MIB / PAGE, 1)))
		return -1;
	t = now();
	for (long done = 0; done < n;) {
		long k = n - done < (long)(MIB / PAGE) ? n - done : (long)(MIB / PAGE);
		struct iovec to = {other, k * PAGE};
		struct iovec from = {p + done * PAGE, k * PAGE};

		if (process_vm_readv(getpid(), &to, 1, &from, 1, 0) != (ssize_t)(k * PAGE))
			return fail("process_vm_readv", errno);
		done += k;
	}
	return (now() - t) / n;
}

const struct op memory_ops[] = {
	{"load", setup_hits, run_load},
	{"store", setup_hits, run_store},
	{"copy", setup_copy, run_copy},
	{"fault", NULL, run_fault},
	{"populate", NULL, run_populate},
	{"munmap", NULL, run_munmap},
	{"mprotect", NULL, run_mprotect},
	{"mremap", NULL, run_mremap},
	{"gup-slow", NULL, run_gup_slow},
	{NULL, NULL, NULL},
};
