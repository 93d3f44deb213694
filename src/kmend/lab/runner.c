// SPDX-License-Identifier: Apache-2.0
//
// The guest's end of the lab's channel: runs commands for the host over a virtio-serial port.
//
// One static program for every shape of guest. It is process 1 of a micro guest and a service of a full one. The protocol
// is described in protocol.py beside this file; numbers and limits here must equal those there.
//
// One thread, one poll loop. Commands run in sessions of their own, so that a signal reaches everything they started.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define PORT_NAME "kmend.lab.0"
#define PROTOCOL "1"

#define MAX_COMMANDS 64
#define MAX_PAYLOAD (128 * 1024)
#define CHUNK (32 * 1024)
#define WINDOW (256 * 1024)

enum { // host to guest
	EXEC = 1,
	STDIN = 2,
	STDIN_END = 3,
	SIGNAL = 4,
};
enum { // guest to host
	READY = 16,
	STDOUT = 17,
	STDERR = 18,
	EXIT = 19,
	FAILED = 20,
	CREDIT = 21,
};

struct header {
	uint32_t kind, channel, length;
} __attribute__((packed));

struct command {
	int used;
	uint32_t channel;
	pid_t pid;
	int in, out, err; // our ends of its pipes; -1 once closed
	int ended, status;
	int in_ending;
	size_t in_start, in_length;
	unsigned char *in_buffer;
};

static struct command commands[MAX_COMMANDS];
static int port = -1;
static sigset_t original_mask;

static void fatal(const char *what)
{
	fprintf(stderr, "kmend-lab-runner: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void write_all(const void *data, size_t length)
{
	const unsigned char *at = data;
	while (length > 0) {
		ssize_t done = write(port, at, length);
		if (done < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (done <= 0)
			fatal("cannot write to the host");
		at += done;
		length -= done;
	}
}

static void send_frame(uint32_t kind, uint32_t channel, const void *payload, size_t length)
{
	// One write for a frame: a virtio-serial write costs a trap to the host, whatever its size.
	static unsigned char frame[sizeof(struct header) + CHUNK];
	struct header header = { kind, channel, length };
	memcpy(frame, &header, sizeof header);
	memcpy(frame + sizeof header, payload, length);
	write_all(frame, sizeof header + length);
}

static void send_number(uint32_t kind, uint32_t channel, uint32_t number)
{
	send_frame(kind, channel, &number, sizeof number);
}

static void read_all(void *data, size_t length)
{
	unsigned char *at = data;
	while (length > 0) {
		ssize_t done = read(port, at, length);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0)
			fatal("cannot read from the host");
		if (done == 0) { // the host has closed its end; nothing left to do but wait for it
			usleep(100 * 1000);
			continue;
		}
		at += done;
		length -= done;
	}
}

static struct command *find_command(uint32_t channel)
{
	for (int i = 0; i < MAX_COMMANDS; i++)
		if (commands[i].used && commands[i].channel == channel)
			return &commands[i];
	return NULL;
}

static void close_end(int *descriptor)
{
	if (*descriptor >= 0)
		close(*descriptor);
	*descriptor = -1;
}

static void forget(struct command *command)
{
	close_end(&command->in);
	close_end(&command->out);
	close_end(&command->err);
	free(command->in_buffer);
	memset(command, 0, sizeof *command);
}

// Copies what a command wrote to the host; returns 0 when there is nothing (more) to come now.
static int forward(struct command *command, int *descriptor, uint32_t kind)
{
	static unsigned char chunk[CHUNK];
	if (*descriptor < 0)
		return 0;
	ssize_t done = read(*descriptor, chunk, sizeof chunk);
	if (done > 0) {
		send_frame(kind, command->channel, chunk, done);
		return 1;
	}
	if (done < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	close_end(descriptor);
	return 0;
}

static void finish(struct command *command)
{
	// Everything that the command wrote before it ended is in the pipes by now. A child that it left behind
	// may hold them open for ever, so end-of-file is not waited for; what it goes on writing is cut off at 1 MiB.
	for (int i = 0; i < 32 && forward(command, &command->out, STDOUT); i++)
		;
	for (int i = 0; i < 32 && forward(command, &command->err, STDERR); i++)
		;
	send_number(EXIT, command->channel, command->status);
	forget(command);
}

static void feed(struct command *command)
{
	while (command->in_length > 0 && command->in >= 0) {
		size_t run = WINDOW - command->in_start;
		if (run > command->in_length)
			run = command->in_length;
		ssize_t done = write(command->in, command->in_buffer + command->in_start, run);
		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno == EAGAIN)
			return;
		if (done < 0) { // it does not want any more
			close_end(&command->in);
			break;
		}
		command->in_start = (command->in_start + done) % WINDOW;
		command->in_length -= done;
		send_number(CREDIT, command->channel, done);
	}
	if (command->in < 0 && command->in_length > 0) { // swallow the rest, so that the host is not left waiting
		send_number(CREDIT, command->channel, command->in_length);
		command->in_length = 0;
	}
	if (command->in_ending && command->in_length == 0)
		close_end(&command->in);
}

static void accept_stdin(struct command *command, const unsigned char *data, size_t length)
{
	if (length > WINDOW - command->in_length) {
		fprintf(stderr, "kmend-lab-runner: the host sends more than it was given credit for\n");
		exit(1);
	}
	for (size_t done = 0; done < length;) {
		size_t end = (command->in_start + command->in_length) % WINDOW;
		size_t run = WINDOW - end;
		if (run > length - done)
			run = length - done;
		memcpy(command->in_buffer + end, data + done, run);
		command->in_length += run;
		done += run;
	}
	feed(command);
}

// Splits NUL-terminated strings; returns how many, or -1 if there are too many or the last is not terminated.
static int split(char *text, size_t length, char **words, int max)
{
	int count = 0;
	for (size_t at = 0; at < length;) {
		char *end = memchr(text + at, 0, length - at);
		if (!end || count >= max)
			return -1;
		words[count++] = text + at;
		at = end - text + 1;
	}
	return count;
}

// A guest that runs out of memory must not lose its runner; what the runner starts is no better than others.
static void be_ordinary(void)
{
	int descriptor = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
	if (descriptor < 0)
		return;
	if (write(descriptor, "0", 1) < 0)
		perror("oom_score_adj");
	close(descriptor);
}

static void child(char **argv, char **envp, const char *folder, int in, int out, int err, int report)
{
	setsid();
	be_ordinary();
	for (int number = 1; number < NSIG; number++)
		signal(number, SIG_DFL);
	sigprocmask(SIG_SETMASK, &original_mask, NULL);
	if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(err, 2) < 0 || chdir(folder) < 0)
		goto failed;
	for (char **entry = envp; *entry; entry++)
		if (!strncmp(*entry, "PATH=", 5))
			setenv("PATH", *entry + 5, 1); // execvpe searches our own PATH
	execvpe(argv[0], argv, envp);
failed:;
	uint32_t number = errno;
	if (write(report, &number, sizeof number) < 0)
		_exit(126);
	_exit(127);
}

// Payload: argument count and environment count (32 bits each), then folder, arguments, environment, NUL after each.
static void execute(uint32_t channel, char *payload, size_t length)
{
	static char *words[8192];
	uint32_t counts[2];
	int in[2] = { -1, -1 }, out[2] = { -1, -1 }, err[2] = { -1, -1 }, report[2] = { -1, -1 };
	struct command *command = NULL;
	uint32_t problem = EINVAL;

	if (length < sizeof counts)
		goto refused;
	memcpy(counts, payload, sizeof counts);
	int found = split(payload + sizeof counts, length - sizeof counts, words, 8000);
	if (found < 2 || counts[0] < 1 || counts[0] > 8000 || counts[1] > 8000 || (uint32_t)found != 1 + counts[0] + counts[1])
		goto refused;
	char *folder = words[0];
	char **envp = words + 1 + counts[0];
	envp[counts[1]] = NULL;
	for (int i = 0; i < (int)counts[0]; i++) // make room for the NULL between the two lists
		words[i] = words[i + 1];
	words[counts[0]] = NULL;

	problem = EAGAIN;
	for (int i = 0; i < MAX_COMMANDS && !command; i++)
		if (!commands[i].used)
			command = &commands[i];
	if (!command)
		goto refused;
	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC) || pipe2(report, O_CLOEXEC)) {
		problem = errno;
		goto refused;
	}
	unsigned char *buffer = malloc(WINDOW);
	pid_t pid = buffer ? fork() : -1;
	if (pid < 0) {
		problem = buffer ? errno : ENOMEM;
		free(buffer);
		goto refused;
	}
	if (pid == 0)
		child(words, envp, folder, in[0], out[1], err[1], report[1]);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	close_end(&report[1]);
	uint32_t number;
	ssize_t got = read(report[0], &number, sizeof number);
	close(report[0]);
	if (got == sizeof number) { // it never became the program; its status is reaped as a stranger's
		close(in[1]);
		close(out[0]);
		close(err[0]);
		free(buffer);
		send_number(FAILED, channel, number);
		return;
	}
	fcntl(in[1], F_SETFL, O_NONBLOCK);
	fcntl(out[0], F_SETFL, O_NONBLOCK);
	fcntl(err[0], F_SETFL, O_NONBLOCK);
	*command = (struct command){ .used = 1, .channel = channel, .pid = pid, .in = in[1], .out = out[0], .err = err[0],
				     .in_buffer = buffer };
	return;
refused:
	for (int i = 0; i < 2; i++) {
		close_end(&in[i]);
		close_end(&out[i]);
		close_end(&err[i]);
		close_end(&report[i]);
	}
	send_number(FAILED, channel, problem);
}

static void take_frame(void)
{
	static unsigned char payload[MAX_PAYLOAD + 1];
	struct header header;
	read_all(&header, sizeof header);
	if (header.length > MAX_PAYLOAD) {
		fprintf(stderr, "kmend-lab-runner: a frame of %u bytes\n", header.length);
		exit(1);
	}
	read_all(payload, header.length);
	if (header.kind == EXEC) {
		execute(header.channel, (char *)payload, header.length);
		return;
	}
	struct command *command = find_command(header.channel);
	if (!command) // it has just ended
		return;
	if (header.kind == STDIN)
		accept_stdin(command, payload, header.length);
	else if (header.kind == STDIN_END) {
		command->in_ending = 1;
		feed(command);
	} else if (header.kind == SIGNAL && header.length == sizeof(uint32_t)) {
		uint32_t number;
		memcpy(&number, payload, sizeof number);
		if (!command->ended)
			kill(-command->pid, number);
	}
}

static void reap(void)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (int i = 0; i < MAX_COMMANDS; i++)
			if (commands[i].used && !commands[i].ended && commands[i].pid == pid) {
				commands[i].ended = 1;
				commands[i].status = status;
			}
	for (int i = 0; i < MAX_COMMANDS; i++)
		if (commands[i].used && commands[i].ended)
			finish(&commands[i]);
}

// The character device of the port with our name, by /sys/class/virtio-ports/<device>/name.
static int open_port(void)
{
	for (int attempt = 0; attempt < 1000; attempt++) {
		DIR *folder = opendir("/sys/class/virtio-ports");
		struct dirent *entry;
		while (folder && (entry = readdir(folder))) {
			char path[512], name[64] = "";
			snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
			int descriptor = open(path, O_RDONLY | O_CLOEXEC);
			if (descriptor < 0)
				continue;
			if (read(descriptor, name, sizeof name - 1) < 0)
				name[0] = 0;
			close(descriptor);
			name[strcspn(name, "\n")] = 0;
			if (strcmp(name, PORT_NAME))
				continue;
			snprintf(path, sizeof path, "/dev/%s", entry->d_name);
			descriptor = open(path, O_RDWR | O_CLOEXEC);
			if (descriptor >= 0) {
				closedir(folder);
				return descriptor;
			}
		}
		if (folder)
			closedir(folder);
		usleep(10 * 1000);
	}
	errno = ENODEV;
	return -1;
}

static void send_ready(void)
{
	struct utsname name;
	char boot_id[64] = "", text[512];
	uname(&name);
	int descriptor = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (descriptor >= 0) {
		if (read(descriptor, boot_id, sizeof boot_id - 1) < 0)
			boot_id[0] = 0;
		close(descriptor);
	}
	boot_id[strcspn(boot_id, "\n")] = 0;
	int length = snprintf(text, sizeof text, PROTOCOL "%c%s%c%s", 0, boot_id, 0, name.release);
	send_frame(READY, 0, text, length);
}

// With an argument, the number of an open descriptor, it talks to that instead of a virtio port; its own tests do so.
int main(int argc, char **argv)
{
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGCHLD);
	sigaddset(&signals, SIGPIPE);
	sigprocmask(SIG_BLOCK, &signals, &original_mask);
	int children = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (children < 0)
		fatal("signalfd");
	port = argc > 1 ? atoi(argv[1]) : open_port();
	if (port < 0)
		fatal("no virtio port " PORT_NAME);
	send_ready();

	for (;;) {
		struct pollfd polls[2 + 3 * MAX_COMMANDS];
		int owners[2 + 3 * MAX_COMMANDS], count = 2;
		polls[0] = (struct pollfd){ port, POLLIN, 0 };
		polls[1] = (struct pollfd){ children, POLLIN, 0 };
		for (int i = 0; i < MAX_COMMANDS; i++) {
			struct command *command = &commands[i];
			if (!command->used)
				continue;
			if (command->out >= 0)
				owners[count] = i, polls[count++] = (struct pollfd){ command->out, POLLIN, 0 };
			if (command->err >= 0)
				owners[count] = i, polls[count++] = (struct pollfd){ command->err, POLLIN, 0 };
			if (command->in >= 0 && command->in_length > 0)
				owners[count] = i, polls[count++] = (struct pollfd){ command->in, POLLOUT, 0 };
		}
		if (poll(polls, count, -1) < 0 && errno != EINTR)
			fatal("poll");
		for (int i = 2; i < count; i++) {
			struct command *command = &commands[owners[i]];
			if (!polls[i].revents)
				continue;
			if (polls[i].fd == command->out)
				forward(command, &command->out, STDOUT);
			else if (polls[i].fd == command->err)
				forward(command, &command->err, STDERR);
			else if (polls[i].fd == command->in)
				feed(command);
		}
		if (polls[1].revents) {
			struct signalfd_siginfo details;
			while (read(children, &details, sizeof details) > 0)
				;
			reap();
		}
		if (polls[0].revents & POLLIN)
			take_frame();
		else if (polls[0].revents) // the host has gone; QEMU ends with it
			usleep(100 * 1000);
	}
}
