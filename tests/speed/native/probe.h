/*
 * The native side of the speed table: small probes that ask the host's kernel
 * for the operations that cowlab emulates. One process serves one operation:
 *
 *   probe OP [key=value ...]
 *
 * It prints "ready", and then answers each line "run N" on standard input with
 * one line: nanoseconds for each of N units as a decimal, or "error TEXT".
 * End of input ends the process. Nothing global is changed: no sysctl, no
 * cgroup, no mount; the one file made (direct reads) is unlinked while open.
 * The exception has to be asked for: swapfile=1 (swap.c).
 */
#ifndef COWLAB_PROBE_H
#define COWLAB_PROBE_H

#ifndef __linux__
#error "the probes measure Linux; on other systems the native column stays empty"
#endif

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stddef.h>
#include <stdint.h>

#define PAGE 4096UL

/* One operation. setup may be NULL. run returns ns for each unit, or what
 * fail returned. */
struct op {
	const char *name;
	int (*setup)(void);
	double (*run)(long n);
};

extern const struct op memory_ops[];  /* memory.c, ends with a NULL name */
extern const struct op process_ops[]; /* process.c */
extern const struct op smp_ops[];     /* smp.c */
extern const struct op io_ops[];      /* io.c */
extern const struct op swap_ops[];    /* swap.c */

/* fail keeps the text, with errno's when err is not 0, for the answer line and
 * returns a negative number. */
double fail(const char *what, int err);

/* arg returns the number given as key=value, or otherwise. text_arg the same
 * for strings. */
long arg(const char *key, long otherwise);
const char *text_arg(const char *key, const char *otherwise);

/* now returns CLOCK_MONOTONIC in ns; cpu_now this thread's CPU time in ns. */
double now(void);
double cpu_now(void);

/* region returns n pages of private anonymous memory, touched if asked.
 * NULL after fail. */
char *region(long n, int touched);

/* touch writes one byte in each of n pages: a write fault where needed. */
void touch(char *p, long n);

/* keep tells the compiler that memory behind p may be read and written. */
static inline void keep(void *p)
{
	__asm__ volatile("" : : "r"(p) : "memory");
}

#endif
