/* Fork, what follows a fork, and exit. Children touch nothing they need not
 * and leave by _exit, so that no buffer is flushed twice. */
#include "probe.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

static char *area;
static long area_pages;

/* held returns n pages, all present, dirty and writable in this process. */
static char *held(long n)
{
	if (area && area_pages != n) {
		munmap(area, area_pages * PAGE);
		area = NULL;
	}
	if (!area && !(area = region(n, 0)))
		return NULL;
	area_pages = n;
	touch(area, n);
	return area;
}

static int reap(pid_t pid)
{
	while (waitpid(pid, NULL, 0) < 0)
		if (errno != EINTR)
			return -1;
	return 0;
}

/* timed_fork returns the ns of one fork as the parent sees it. */
static double timed_fork(void)
{
	double t = now();
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	t = now() - t;
	if (pid < 0)
		return fail("fork", errno);
	if (reap(pid))
		return fail("waitpid", errno);
	return t;
}

static double run_fork_fixed(long n)
{
	double sum = 0;

	for (long i = 0; i < n; i++) {
		double t = timed_fork();

		if (t < 0)
			return -1;
		sum += t;
	}
	return sum / n;
}

/* The slope between a fork that copies all n pages and one that copies a tenth
 * (MADV_DONTFORK hides the rest), so that the fixed part falls out. Every page
 * is made writable again before each fork: the copy has to protect it. */
static double run_fork_page(long n)
{
	long few = n / 10;
	char *p = held(n);
	double all, some;

	if (!p)
		return -1;
	if (few < 1)
		return fail("fork-page needs at least 10 pages", 0);
	if ((all = timed_fork()) < 0)
		return -1;
	if (madvise(p + few * PAGE, (n - few) * PAGE, MADV_DONTFORK))
		return fail("madvise", errno);
	touch(p, n);
	some = timed_fork();
	if (madvise(p + few * PAGE, (n - few) * PAGE, MADV_DOFORK))
		return fail("madvise", errno);
	if (some < 0)
		return -1;
	return (all - some) / (n - few);
}

/* The child only holds its half of the pages until the pipe closes, also when
 * this process dies. */
static double run_cow_copy(long n)
{
	char *p = held(n);
	int fd[2];
	pid_t pid;
	double t;
	char c;

	if (!p)
		return -1;
	if (pipe(fd))
		return fail("pipe", errno);
	pid = fork();
	if (pid == 0) {
		close(fd[1]);
		while (read(fd[0], &c, 1) > 0)
			;
		_exit(0);
	}
	close(fd[0]);
	if (pid < 0) {
		close(fd[1]);
		return fail("fork", errno);
	}
	t = now();
	touch(p, n);
	t = now() - t;
	close(fd[1]);
	if (reap(pid))
		return fail("waitpid", errno);
	return t / n;
}

static double run_cow_reuse(long n)
{
	char *p = held(n);
	double t;

	if (!p || timed_fork() < 0)
		return -1;
	t = now();
	touch(p, n);
	return (now() - t) / n;
}

/* exit_time returns the ns between a child's last instruction and its parent's
 * return from waitpid, for a child with n touched pages of its own. */
static double exit_time(double *stamp, long n)
{
	pid_t pid = fork();

	if (pid == 0) {
		char *p = region(n, 1);

		*stamp = p ? now() : 0;
		_exit(p ? 0 : 1);
	}
	if (pid < 0)
		return fail("fork", errno);
	if (reap(pid))
		return fail("waitpid", errno);
	if (*stamp == 0)
		return fail("no memory in the child", 0);
	return now() - *stamp;
}

static double run_exit(long n)
{
	static double *stamp;
	long few = n / 10;
	double all, some;

	if (few < 1)
		return fail("exit needs at least 10 pages", 0);
	if (!stamp) {
		stamp = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
		if (stamp == MAP_FAILED) {
			stamp = NULL;
			return fail("mmap", errno);
		}
	}
	if ((all = exit_time(stamp, n)) < 0 || (some = exit_time(stamp, few)) < 0)
		return -1;
	return (all - some) / (n - few);
}

const struct op process_ops[] = {
	{"fork-fixed", NULL, run_fork_fixed},
	{"fork-page", NULL, run_fork_page},
	{"cow-copy", NULL, run_cow_copy},
	{"cow-reuse", NULL, run_cow_reuse},
	{"exit", NULL, run_exit},
	{NULL, NULL, NULL},
};
