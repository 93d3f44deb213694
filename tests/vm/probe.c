/* Calls that busybox has no command for; prints what came of each. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	struct timespec nap = { 0, 1000000 };
	struct pollfd *locked = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct pollfd many[7];
	long count;

	printf("filesystems %ld\n", syscall(SYS_sysfs, 3));
	printf("nap %d\n", nanosleep(&nap, NULL));
	locked->fd = 0;
	mprotect(locked, 4096, PROT_READ);
	errno = 0;
	count = syscall(SYS_poll, locked, 1, 0);
	printf("poll into read-only memory %ld %s\n", count, strerrorname_np(errno));
	memset(many, 0xff, sizeof(many));
	errno = 0;
	count = syscall(SYS_poll, many, 7, 0);
	printf("poll of seven %ld %s\n", count, strerrorname_np(errno));
	return 0;
}
