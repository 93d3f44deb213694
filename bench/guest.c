/* What runs in the guest of bench.loading: loads and unloads with a clock in hand, makes threads, and watches for stalls. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	exit(1);
}

/* The first character of a file of sysfs; 0 if it is gone. */
static int first(const char *path)
{
	char letter = 0;
	int fd = open(path, O_RDONLY);

	if (fd < 0)
		return 0;
	if (read(fd, &letter, 1) != 1)
		letter = 0;
	close(fd);
	return letter;
}

static double insert(const char *file)
{
	double start;
	int fd = open(file, O_RDONLY);

	if (fd < 0)
		fail(file);
	start = now();
	if (syscall(SYS_finit_module, fd, "", 0))
		fail("finit_module");
	start = now() - start;
	close(fd);
	return start;
}

static double delete(const char *name)
{
	double start, end = now() + 60;

	for (;;) {
		start = now();
		if (!syscall(SYS_delete_module, name, O_NONBLOCK))
			return now() - start;
		if (errno != EAGAIN && errno != EBUSY)
			fail("delete_module");
		if (now() > end)
			fail("delete_module, after a minute");
		usleep(1000);
	}
}

static void load(const char *file, const char *name)
{
	char path[200];
	double loading = insert(file), start = now();

	snprintf(path, sizeof(path), "/sys/kernel/livepatch/%s/transition", name);
	while (first(path) != '0') {
		if (now() - start > 120)
			fail("the transition does not end");
		usleep(500);
	}
	printf("%f %f\n", loading, now() - start);
}

static void unload(const char *name)
{
	char path[200];
	double start = now(), off;
	int fd;

	snprintf(path, sizeof(path), "/sys/kernel/livepatch/%s/enabled", name);
	fd = open(path, O_WRONLY);
	if (fd < 0 || write(fd, "0", 1) != 1)
		fail(path);
	close(fd);
	while (first(path)) {
		if (now() - start > 120)
			fail("the transition does not end");
		usleep(500);
	}
	off = now() - start;
	printf("%f %f\n", off, delete(name));
}

static void *idle(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void crowd(int count)
{
	pthread_attr_t small;
	pthread_t thread;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 16384);
	for (int i = 0; i < count; i++)
		if ((errno = pthread_create(&thread, &small, idle, NULL)))
			fail("pthread_create");
	printf("ready\n");
	fflush(stdout);
	fclose(stdout);
	idle(NULL);
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		fail("sched_setaffinity");
}

static int rising(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/*
 * Turn about, half a second each: a busy task looks how long it is kept from its work, and forks, exits and waits. Prints the longest
 * stall, all stalls of over 100 us together, the longest fork, the 99th percentile of forks and their median; in seconds.
 */
static void watch(int cpu, double seconds)
{
	static double took[1000000];
	double most = 0, stolen = 0, last, moment, turn, end;
	int count = 0;

	pin(cpu);
	end = now() + seconds;
	while (now() < end) {
		last = now();
		turn = last + 0.5;
		while (last < turn) {
			moment = now();
			if (moment - last > most)
				most = moment - last;
			if (moment - last > 1e-4)
				stolen += moment - last;
			last = moment;
		}
		turn = now() + 0.5;
		while ((last = now()) < turn && count < 1000000) {
			pid_t child = fork();

			if (child < 0)
				fail("fork");
			if (!child)
				_exit(0);
			waitpid(child, NULL, 0);
			took[count++] = now() - last;
		}
	}
	qsort(took, count, sizeof(double), rising);
	printf("%f %f %f %f %f\n", most, stolen, took[count - 1], took[count * 99 / 100], took[count / 2]);
}

/* Nanoseconds for a system call that does next to nothing. */
static void hot(int count)
{
	double start;

	pin(1);
	start = now();
	for (int i = 0; i < count; i++)
		syscall(SYS_getppid);
	printf("%f\n", (now() - start) / count * 1e9);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "load") && argc == 4)
		load(argv[2], argv[3]);
	else if (!strcmp(what, "unload") && argc == 3)
		unload(argv[2]);
	else if (!strcmp(what, "delete") && argc == 3)
		printf("%f\n", delete(argv[2]));
	else if (!strcmp(what, "insert") && argc == 3)
		printf("%f\n", insert(argv[2]));
	else if (!strcmp(what, "crowd") && argc == 3)
		crowd(atoi(argv[2]));
	else if (!strcmp(what, "watch") && argc == 4)
		watch(atoi(argv[2]), atof(argv[3]));
	else if (!strcmp(what, "hot") && argc == 3)
		hot(atoi(argv[2]));
	else
		return 2;
	return 0;
}
