/* What one CPU does to another, and two threads that share one CPU. */
#include "probe.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* pick stores up to want CPUs this process may use and returns how many. */
static int pick(int *cpus, int want)
{
	cpu_set_t set;
	int n = 0;

	if (sched_getaffinity(0, sizeof set, &set))
		return 0;
	for (int i = 0; i < CPU_SETSIZE && n < want; i++)
		if (CPU_ISSET(i, &set))
			cpus[n++] = i;
	return n;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof set, &set);
}

/* The spinner runs user code on the second CPU while it is asked to and sleeps
 * in read otherwise, where the kernel need not interrupt it for a flush. */
static int spin_cpu, spin_pipe[2];
static volatile int spin_wanted, spin_running;
static char *page;

static void *spinner(void *unused)
{
	char c;

	(void)unused;
	pin(spin_cpu);
	while (read(spin_pipe[0], &c, 1) == 1) {
		__atomic_store_n(&spin_running, 1, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&spin_wanted, __ATOMIC_RELAXED))
			keep(*(char *volatile *)&page);
		__atomic_store_n(&spin_running, 0, __ATOMIC_SEQ_CST);
	}
	return NULL;
}

static int setup_tlb(void)
{
	pthread_t thread;
	int cpus[2];
	int err;

	if (pick(cpus, 2) < 2)
		return (int)fail("needs two CPUs", 0);
	if (pipe(spin_pipe))
		return (int)fail("pipe", errno);
	if (!(page = region(1, 1)))
		return -1;
	pin(cpus[0]);
	spin_cpu = cpus[1];
	if ((err = pthread_create(&thread, NULL, spinner, NULL)))
		return (int)fail("pthread_create", err);
	return 0;
}

/* toggles returns the ns of n protections of one writable, dirty page. */
static double toggles(long n)
{
	double sum = 0;

	for (long i = 0; i < n; i++) {
		double t;

		*(volatile char *)page = 1;
		t = now();
		if (mprotect(page, PAGE, PROT_READ))
			return fail("mprotect", errno);
		sum += now() - t;
		if (mprotect(page, PAGE, PROT_READ | PROT_WRITE))
			return fail("mprotect", errno);
	}
	return sum;
}

/* With a CPU that has to be interrupted, less without. */
static double run_tlb(long n)
{
	double with, without;

	__atomic_store_n(&spin_wanted, 1, __ATOMIC_SEQ_CST);
	if (write(spin_pipe[1], "", 1) != 1)
		return fail("write", errno);
	while (!__atomic_load_n(&spin_running, __ATOMIC_SEQ_CST))
		;
	with = toggles(n);
	__atomic_store_n(&spin_wanted, 0, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&spin_running, __ATOMIC_SEQ_CST))
		;
	usleep(200); /* until it sleeps */
	without = toggles(n);
	if (with < 0 || without < 0)
		return -1;
	return (with - without) / n;
}

/* Whose turn it is: 0 the main thread's, 1 the partner's. */
static uint32_t turn;

static void futex(int op, uint32_t value)
{
	syscall(SYS_futex, &turn, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

static void hand_to(uint32_t who)
{
	__atomic_store_n(&turn, who, __ATOMIC_SEQ_CST);
	futex(FUTEX_WAKE, 1);
}

static void wait_for(uint32_t who)
{
	while (__atomic_load_n(&turn, __ATOMIC_SEQ_CST) != who)
		futex(FUTEX_WAIT, !who);
}

static void *partner(void *unused)
{
	(void)unused;
	for (;;) {
		wait_for(1);
		hand_to(0);
	}
	return NULL;
}

/* The partner inherits the one CPU that the main thread is pinned to. */
static int setup_futex(void)
{
	pthread_t thread;
	int cpu, err;

	if (pick(&cpu, 1) < 1)
		return (int)fail("no CPU", 0);
	pin(cpu);
	if ((err = pthread_create(&thread, NULL, partner, NULL)))
		return (int)fail("pthread_create", err);
	return 0;
}

static double run_futex(long n)
{
	double t = now();

	for (long i = 0; i < n; i++) {
		hand_to(1);
		wait_for(0);
	}
	return (now() - t) / n;
}

const struct op smp_ops[] = {
	{"tlb-flush", setup_tlb, run_tlb},
	{"futex", setup_futex, run_futex},
	{NULL, NULL, NULL},
};
