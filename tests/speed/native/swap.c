/* Swap. The pages go to whatever swap area the host has; with swapfile=1 the
 * probe makes one of its own in dir=, which is in use while the process lives
 * (root only). "swapoff" takes away one that a killed probe has left. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT 21
#endif

#define AREA_PAGES 32768UL /* 128 MiB */

static char area_path[4096];
static pid_t area_owner;

static void area_off(void)
{
	if (getpid() != area_owner)
		return;
	swapoff(area_path);
	unlink(area_path);
}

/* write_area fills the file, which may not have holes, and gives it the header
 * that mkswap writes. */
static int write_area(int fd)
{
	static char page[PAGE];
	uint32_t info[3] = {1 /* version */, AREA_PAGES - 1 /* last page */, 0 /* bad pages */};

	for (unsigned long i = 1; i < AREA_PAGES; i++)
		if (pwrite(fd, page, PAGE, i * PAGE) != (ssize_t)PAGE)
			return fail("writing the swap file", errno);
	memcpy(page + 1024, info, sizeof info);
	memcpy(page + PAGE - 10, "SWAPSPACE2", 10);
	if (pwrite(fd, page, PAGE, 0) != (ssize_t)PAGE || fsync(fd))
		return fail("writing the swap file", errno);
	return 0;
}

static int area_on(void)
{
	int fd, bad;

	fd = open(area_path, O_RDWR | O_CREAT | O_EXCL, 0600);
	if (fd < 0)
		return fail("making the swap file", errno);
	bad = write_area(fd);
	close(fd);
	if (!bad && swapon(area_path, 0))
		bad = fail("swapon", errno);
	if (bad) {
		unlink(area_path);
		return bad;
	}
	area_owner = getpid();
	atexit(area_off);
	return 0;
}

static void name_area(void)
{
	snprintf(area_path, sizeof area_path, "%s/swap", text_arg("dir", "."));
}

static int setup_swap(void)
{
	struct sysinfo host;

	name_area();
	if (arg("swapfile", 0))
		return area_on();
	if (sysinfo(&host))
		return fail("sysinfo", errno);
	if (host.freeswap * host.mem_unit < 64UL << 20)
		return fail("the host has no free swap area (-swapfile makes one for the run)", 0);
	return 0;
}

static int setup_swapoff(void)
{
	name_area();
	swapoff(area_path);
	unlink(area_path);
	return 0;
}

/* present counts the pages that are in memory, the swap cache included. */
static long present(char *p, long n)
{
	unsigned char *in = malloc(n);
	long count = 0;

	if (!in || mincore(p, n * PAGE, in)) {
		free(in);
		return fail("mincore", errno);
	}
	for (long i = 0; i < n; i++)
		count += in[i] & 1;
	free(in);
	return count;
}

static int pageout(char *p, long n)
{
	return madvise(p, n * PAGE, MADV_PAGEOUT) ? fail("madvise", errno) : 0;
}

/* send_away leaves nothing of the pages in memory. What is under writeback stays in
 * the swap cache; read again when that is over, it is clean and goes at once. */
static int send_away(char *p, long n)
{
	for (int tries = 0; tries < 50; tries++) {
		long left;

		if (pageout(p, n))
			return -1;
		left = present(p, n);
		if (left < 0)
			return -1;
		if (left <= n / 50)
			return 0;
		usleep(20000);
		for (long i = 0; i < n; i++)
			keep((void *)(uintptr_t)*(volatile char *)(p + i * PAGE));
	}
	return fail("pages stay in memory whatever is asked", 0);
}

static double run_out(long n)
{
	char *p = region(n, 1);
	double t;

	if (!p)
		return -1;
	t = now();
	if (pageout(p, n))
		t = -1;
	else
		t = (now() - t) / n;
	munmap(p, n * PAGE);
	return t;
}

static long gcd(long a, long b)
{
	return b ? gcd(b, a % b) : a;
}

/* back touches the pages in steps of step, modulo their number. */
static double back(long n, long step)
{
	char *p = region(n, 1);
	double t = -1;

	if (!p)
		return -1;
	while (gcd(step, n) != 1)
		step++;
	if (!send_away(p, n)) {
		t = now();
		for (long i = 0, at = 0; i < n; i++, at = (at + step) % n)
			*(volatile char *)(p + at * PAGE) = 2;
		t = (now() - t) / n;
	}
	munmap(p, n * PAGE);
	return t;
}

static double run_in(long n)
{
	return back(n, 1);
}

static double run_in_random(long n)
{
	return back(n, n * 618 / 1000 > 0 ? n * 618 / 1000 : 1);
}

static double run_nothing(long n)
{
	(void)n;
	return 0;
}

const struct op swap_ops[] = {
	{"swap-out", setup_swap, run_out},
	{"swap-in", setup_swap, run_in},
	{"swap-in-random", setup_swap, run_in_random},
	{"swapoff", setup_swapoff, run_nothing},
	{NULL, NULL, NULL},
};
