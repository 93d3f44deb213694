/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sleeps inside kernel_clone() for as long as its child lives: a parent waits for a child of vfork() where only a deadly
 * signal ends its sleep, so that the kernel's fake signal does not get it out of there.
 */
#include <sys/types.h>
#include <unistd.h>

int main(void)
{
	if (vfork() == 0)
		for (;;)
			pause();
	return 0;
}
