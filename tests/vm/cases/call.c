/* Calls that busybox has no command for: `call WHAT [ARGUMENT...]` prints what came of each. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/bpf.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static int said(long result)
{
	if (result < 0)
		printf("%s\n", strerrorname_np(errno));
	else
		printf("%ld\n", result);
	return 0;
}

/* A pseudoterminal; returns the master, sets the slave. */
static int terminal(int *slave)
{
	int master = open("/dev/ptmx", O_RDWR | O_NOCTTY);
	int unlock = 0;

	ioctl(master, TIOCSPTLCK, &unlock);
	*slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_NONBLOCK);
	if (master < 0 || *slave < 0) {
		perror("pseudoterminal");
		exit(2);
	}
	return master;
}

/* A page that can be read, but not written. */
static void *locked_page(void)
{
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	page[0] = 1;
	mprotect(page, 4096, PROT_READ);
	return page;
}

/* LENGTH bytes of the running kernel at ADDRESS, read through /proc/kcore, in hexadecimal. */
static int peek(uint64_t address, unsigned int length)
{
	int core = open("/proc/kcore", O_RDONLY);
	Elf64_Ehdr header;
	Elf64_Phdr part;
	unsigned char bytes[65536];

	if (core < 0 || pread(core, &header, sizeof(header), 0) != sizeof(header) || length > sizeof(bytes))
		return 2;
	for (int n = 0; n < header.e_phnum; n++) {
		if (pread(core, &part, sizeof(part), header.e_phoff + n * sizeof(part)) != sizeof(part))
			return 2;
		if (part.p_type != PT_LOAD || address < part.p_vaddr || address + length > part.p_vaddr + part.p_memsz)
			continue;
		if (pread(core, bytes, length, part.p_offset + address - part.p_vaddr) != length)
			return 3;
		for (unsigned int i = 0; i < length; i++)
			printf("%02x", bytes[i]);
		printf("\n");
		return 0;
	}
	return 4;
}

/* An audit record of user space; the kernel gives it a serial number. */
static int audit(const char *text)
{
	struct {
		struct nlmsghdr header;
		char text[64];
	} message = { .header = { .nlmsg_type = 1107, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK } };
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);
	char answer[256];

	strncpy(message.text, text, sizeof(message.text) - 1);
	message.header.nlmsg_len = NLMSG_LENGTH(strlen(text) + 1);
	if (sendto(s, &message, message.header.nlmsg_len, 0, (void *)&kernel, sizeof(kernel)) < 0)
		return said(-1);
	return said(recv(s, answer, sizeof(answer), 0) > 0 ? 0 : -1);
}

/* Set the audit rate limit (records a second). */
static int audit_rate(unsigned int limit)
{
	struct {
		struct nlmsghdr header;
		struct audit_status status;
	} message = {
		.header = { .nlmsg_type = AUDIT_SET, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK, .nlmsg_len = sizeof(message) },
		.status = { .mask = AUDIT_STATUS_RATE_LIMIT, .rate_limit = limit },
	};
	struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	int s = socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);
	char answer[256];

	if (sendto(s, &message, sizeof(message), 0, (void *)&kernel, sizeof(kernel)) < 0)
		return said(-1);
	return said(recv(s, answer, sizeof(answer), 0) > 0 ? 0 : -1);
}

static int negative_timeouts(int count)
{
	struct timeval negative = { -1, 0 }, two = { 2, 0 };
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	socklen_t size = sizeof(two);

	while (count--)
		if (setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &negative, sizeof(negative)))
			return said(-1);
	setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &two, sizeof(two));
	getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &two, &size);
	return said(two.tv_sec);
}

static int key(const char *payload)
{
	char answer[64] = "";
	long serial = syscall(SYS_add_key, "user", "kmend", payload, strlen(payload), -3 /* the session's */);
	long length = syscall(SYS_keyctl, 11 /* KEYCTL_READ */, serial, answer, sizeof(answer) - 1);

	printf("%ld %s\n", length, answer);
	return 0;
}

static int mount_file_system(unsigned int attributes)
{
	int context = syscall(SYS_fsopen, "tmpfs", 0);

	syscall(SYS_fsconfig, context, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0);
	return said(syscall(SYS_fsmount, context, 0, attributes) < 0 ? -1 : 0);
}

static int directory(const char *path, int fault)
{
	char buffer[4096];
	int folder = open(path, O_RDONLY | O_DIRECTORY);
	long length = syscall(SYS_getdents64, folder, fault ? locked_page() : buffer, sizeof(buffer));

	if (length < 0)
		return said(-1);
	printf("%#lx\n", *(unsigned long *)buffer);
	return 0;
}

static int socket_map(unsigned int entries)
{
	union bpf_attr attributes = { .map_type = BPF_MAP_TYPE_SOCKMAP, .key_size = 4, .value_size = 4, .max_entries = entries };

	return said(syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes)) < 0 ? -1 : 0);
}

/* How much of 40,000 bytes a pseudoterminal takes that nobody reads. */
static int fill(void)
{
	static char text[1000];
	int slave, master = terminal(&slave);
	long taken = 0, n;

	memset(text, 'x', sizeof(text));
	while (taken < 40000 && (n = write(slave, text, sizeof(text))) > 0)
		taken += n;
	close(master);
	return said(taken);
}

/* Poll a pipe without a limit, while something may be patched; then tell how often poll() returned. */
static int park(const char *fifo)
{
	struct pollfd one = { open(fifo, O_RDWR | O_NONBLOCK), POLLIN, 0 };
	int returns = 0, result;

	do {
		result = poll(&one, 1, -1);
		returns++;
	} while (result < 0 && errno == EINTR);
	printf("%d returns, result %d, events %d\n", returns, result, one.revents);
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	const char *text = argc > 2 ? argv[2] : "";
	unsigned long number = strtoul(text, NULL, 0);
	struct sysinfo info;
	struct msginfo message;
	struct termios settings;
	unsigned long context = 0;
	int slave, count = -1;

	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(what, "peek"))
		return peek(number, strtoul(argv[3], NULL, 0));
	if (!strcmp(what, "sysinfo"))
		return said(sysinfo(&info) ?: info.procs);
	if (!strcmp(what, "msginfo"))
		return said(msgctl(0, IPC_INFO, (void *)&message) < 0 ? -1 : message.msgmap);
	if (!strcmp(what, "nap"))
		return said(nanosleep(&(struct timespec){ 0, number }, NULL));
	if (!strcmp(what, "io_setup"))
		return said(syscall(SYS_io_setup, number, &context) < 0 ? -1 : 0);
	if (!strcmp(what, "audit"))
		return audit(text);
	if (!strcmp(what, "audit_rate"))
		return audit_rate(number);
	if (!strcmp(what, "negative_timeouts"))
		return negative_timeouts(number);
	if (!strcmp(what, "key"))
		return key(text);
	if (!strcmp(what, "fsmount"))
		return mount_file_system(number);
	if (!strcmp(what, "directory"))
		return directory(text, 0);
	if (!strcmp(what, "directory_fault"))
		return directory(text, 1);
	if (!strcmp(what, "socket_map"))
		return socket_map(number);
	if (!strcmp(what, "poll"))
		return said(poll(calloc(number, sizeof(struct pollfd)), number, 0));
	if (!strcmp(what, "poll_fault"))
		return said(poll(locked_page(), 1, 0));
	if (!strcmp(what, "epoll")) {
		int pipes[2], set = epoll_create1(0);

		return said(pipe(pipes) ?: epoll_ctl(set, EPOLL_CTL_ADD, pipes[0], &(struct epoll_event){ EPOLLIN }));
	}
	if (!strcmp(what, "open_nonblock"))
		return said(open(text, O_RDONLY | O_NONBLOCK) < 0 ? -1 : 0);
	if (!strcmp(what, "fill"))
		return fill();
	if (!strcmp(what, "park"))
		return park(text);
	terminal(&slave);
	if (!strcmp(what, "tty"))
		return said(ioctl(slave, number, &count) ?: count);
	if (!strcmp(what, "line"))
		return said(ioctl(slave, 0x5401 /* TCGETS */, &settings) ?: settings.c_line);
	fprintf(stderr, "what is '%s'?\n", what);
	return 2;
}
