/* Threads that come and go until the file /stop is there; then tells how many there were. `storm PROCESSES` */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define AT_ONCE 8

static void *leave(void *unused)
{
	if ((long)unused & 1)
		sched_yield();
	pthread_exit(NULL);
}

static long storm(void)
{
	pthread_attr_t small;
	pthread_t threads[AT_ONCE];
	long count = 0;

	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 65536);
	while (access("/stop", F_OK)) {
		int status, started = 0;
		pid_t child;

		while (started < AT_ONCE && !pthread_create(&threads[started], &small, leave, (void *)(long)started))
			started++;
		child = fork();
		if (!child)
			_exit(7);
		for (int n = 0; n < started; n++)
			pthread_join(threads[n], NULL);
		if (child < 0 || waitpid(child, &status, 0) != child || WEXITSTATUS(status) != 7) {
			perror("a process that exits");
			exit(2);
		}
		count += started + 1;
	}
	return count;
}

int main(int argc, char **argv)
{
	int processes = argc > 1 ? atoi(argv[1]) : 1;
	long *counts = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	long total = 0;

	nice(5);	/* who loads livepatches meanwhile should not have to wait for the storm */
	for (int n = 0; n < processes; n++)
		if (!fork()) {
			counts[n] = storm();
			_exit(0);
		}
	for (int n = 0; n < processes; n++) {
		int status;

		wait(&status);
		if (status)
			return 2;
	}
	for (int n = 0; n < processes; n++)
		total += counts[n];
	printf("%ld\n", total);
	return 0;
}
