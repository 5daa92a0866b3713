/* Protocol, clocks and bounds of the native probes; see probe.h. */
#include "probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#ifndef PR_SET_THP_DISABLE
#define PR_SET_THP_DISABLE 41
#endif

/* Address space of one probe and seconds for one run: beyond them the probe
 * fails or dies, the host never suffers. */
#define MAX_BYTES (600UL << 20)
#define MAX_SECONDS 30

static char problem[256];
static int nargs;
static char **args;

double fail(const char *what, int err)
{
	if (err)
		snprintf(problem, sizeof problem, "%s: %s", what, strerror(err));
	else
		snprintf(problem, sizeof problem, "%s", what);
	return -1;
}

const char *text_arg(const char *key, const char *otherwise)
{
	size_t len = strlen(key);

	for (int i = 0; i < nargs; i++)
		if (!strncmp(args[i], key, len) && args[i][len] == '=')
			return args[i] + len + 1;
	return otherwise;
}

long arg(const char *key, long otherwise)
{
	const char *text = text_arg(key, NULL);

	return text ? strtol(text, NULL, 10) : otherwise;
}

static double clock_ns(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return ts.tv_sec * 1e9 + ts.tv_nsec;
}

double now(void)
{
	return clock_ns(CLOCK_MONOTONIC);
}

double cpu_now(void)
{
	return clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

void touch(char *p, long n)
{
	for (long i = 0; i < n; i++)
		*(volatile char *)(p + i * PAGE) = 1;
}

char *region(long n, int touched)
{
	char *p = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		fail("mmap", errno);
		return NULL;
	}
	/* The prctl in main is enough where it is known; this is for kernels
	 * where a security rule refuses it. */
	madvise(p, n * PAGE, MADV_NOHUGEPAGE);
	if (touched)
		touch(p, n);
	return p;
}

static const struct op *find(const char *name)
{
	const struct op *tables[] = {memory_ops, process_ops, smp_ops, io_ops,
				    swap_ops};

	for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++)
		for (const struct op *o = tables[t]; o->name; o++)
			if (!strcmp(o->name, name))
				return o;
	return NULL;
}

static void bound(void)
{
	struct rlimit as = {MAX_BYTES, MAX_BYTES};
	struct rlimit core = {0, 0};

	setrlimit(RLIMIT_AS, &as);
	setrlimit(RLIMIT_CORE, &core);
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
}

int main(int argc, char **argv)
{
	const struct op *o;
	char line[64];

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc < 2 || !(o = find(argv[1]))) {
		printf("error no such operation\n");
		return 2;
	}
	nargs = argc - 2;
	args = argv + 2;
	bound();
	alarm(MAX_SECONDS);
	if (o->setup && o->setup() < 0) {
		printf("error %s\n", problem);
		return 1;
	}
	printf("ready\n");
	for (;;) {
		long n;
		double ns;

		alarm(0); /* an idle probe waits for its turn as long as it takes */
		if (!fgets(line, sizeof line, stdin))
			return 0;
		if (sscanf(line, "run %ld", &n) != 1 || n < 1) {
			printf("error bad request\n");
			continue;
		}
		alarm(MAX_SECONDS);
		ns = o->run(n);
		if (ns < 0 && problem[0])
			printf("error %s\n", problem);
		else
			printf("%.4f\n", ns);
		problem[0] = 0;
	}
}
