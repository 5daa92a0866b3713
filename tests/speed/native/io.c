/* Pages handed to a pipe (the native stand-in for gup-fast) and direct reads. */
#include "probe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MANY 240L /* pages in one long vmsplice: fits a pipe of 1 MiB */
#define FEW 16L   /* and in a short one */
#define MIB (1UL << 20)
#define FILE_BYTES (8 * MIB)
#define TMPFS 0x01021994L

static char *area;
static int pipe_fd[2] = {-1, -1};
static int null_fd = -1;

static int setup_vmsplice(void)
{
	if (!(area = region(MANY, 1)))
		return -1;
	if (pipe(pipe_fd))
		return (int)fail("pipe", errno);
	if (fcntl(pipe_fd[1], F_SETPIPE_SZ, (int)MIB) < (int)MIB)
		return (int)fail("F_SETPIPE_SZ", errno);
	if ((null_fd = open("/dev/null", O_WRONLY)) < 0)
		return (int)fail("/dev/null", errno);
	return 0;
}

/* splice_pages returns the ns of one vmsplice of n pages; the pipe is emptied
 * outside the measured time. */
static double splice_pages(long n)
{
	struct iovec v = {area, n * PAGE};
	double t = now();
	long got = vmsplice(pipe_fd[1], &v, 1, 0);

	t = now() - t;
	if (got != (long)(n * PAGE))
		return fail("vmsplice", errno);
	while (got > 0) {
		long k = splice(pipe_fd[0], NULL, null_fd, NULL, got, 0);

		if (k <= 0)
			return fail("splice", errno);
		got -= k;
	}
	return t;
}

/* n counts the pages of the long calls; the slope between long and short
 * leaves the cost of the call out. */
static double run_vmsplice(long n)
{
	long calls = (n + MANY - 1) / MANY;
	double many = 0, few = 0;

	for (long i = 0; i < calls; i++) {
		double a = splice_pages(MANY), b = splice_pages(FEW);

		if (a < 0 || b < 0)
			return -1;
		many += a;
		few += b;
	}
	return (many - few) / (calls * (MANY - FEW));
}

static int file_fd = -1;
static void *buffer;

/* A file of 8 MiB in dir=, on the device, in no cache, without a name. */
static int setup_direct(void)
{
	char name[512];
	struct statfs fs;

	if (posix_memalign(&buffer, MIB, MIB))
		return (int)fail("posix_memalign", ENOMEM);
	memset(buffer, 0x5a, MIB);
	snprintf(name, sizeof name, "%s/cowlab-probe.XXXXXX", text_arg("dir", "/tmp"));
	if ((file_fd = mkostemp(name, O_DIRECT)) < 0)
		return (int)fail("direct file", errno);
	unlink(name);
	if (fstatfs(file_fd, &fs))
		return (int)fail("fstatfs", errno);
	if (fs.f_type == TMPFS)
		return (int)fail("the directory is a tmpfs, which pins nothing", 0);
	for (size_t at = 0; at < FILE_BYTES; at += MIB)
		if (pwrite(file_fd, buffer, MIB, at) != (ssize_t)MIB)
			return (int)fail("direct write", errno);
	if (fsync(file_fd))
		return (int)fail("fsync", errno);
	return 0;
}

/* CPU time of this thread for each page of reads of 1 MiB; n counts pages. */
static double run_direct_1m(long n)
{
	long calls = (n + (long)(MIB / PAGE) - 1) / (long)(MIB / PAGE);
	double t = cpu_now();

	for (long i = 0; i < calls; i++)
		if (pread(file_fd, buffer, MIB, (i * MIB) % FILE_BYTES) != (ssize_t)MIB)
			return fail("direct read", errno);
	return (cpu_now() - t) / (calls * (MIB / PAGE));
}

/* Wall time of one read of 4 KiB, device included. */
static double run_direct_4k(long n)
{
	double t = now();

	for (long i = 0; i < n; i++)
		if (pread(file_fd, buffer, PAGE, (i * 37 * PAGE) % FILE_BYTES) != (ssize_t)PAGE)
			return fail("direct read", errno);
	return (now() - t) / n;
}

const struct op io_ops[] = {
	{"vmsplice", setup_vmsplice, run_vmsplice},
	{"direct-1m", setup_direct, run_direct_1m},
	{"direct-4k", setup_direct, run_direct_4k},
	{NULL, NULL, NULL},
};
