/* Writers that all want one lock of the kernel until /stop is there; tells how many writes succeeded. `contend FILE THREADS` */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *path;
static atomic_long written;

static void *contend(void *unused)
{
	while (access("/stop", F_OK)) {
		int file = open(path, O_WRONLY);

		if (file < 0 || write(file, "0\n", 2) != 2) {
			perror(path);
			exit(2);
		}
		close(file);
		written++;
	}
	return unused;
}

int main(int argc, char **argv)
{
	int count = argc > 2 ? atoi(argv[2]) : 1;
	pthread_t threads[64];

	path = argv[1];
	for (int n = 0; n < count; n++)
		if (pthread_create(&threads[n], NULL, contend, NULL))
			return 2;
	for (int n = 0; n < count; n++)
		pthread_join(threads[n], NULL);
	printf("%ld\n", written);
	return 0;
}
