"""Which function a line belongs to, in the ways that kernel sources are written."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kmend.factory.derive import functions

SOURCE = b"""\
#include <linux/kernel.h>
#define BROKEN(x) do { (x
struct thing { int (*call)(int); };
static const struct file_operations ops = {
	.open = thing_open,
	.name = "}{",
};
static int table[] = { [0] = 1, };
enum { A, B };
DEFINE_PER_CPU(struct thing, things) = { 0 };

/* int commented(void)
{ */
static int plain(int x)
{
	if (x) {
		return '{';
	}
	return 0;
}

static __printf(1, 2) void __init
over_lines(const char *fmt,
		...)
	__acquires(&lock)
	__releases(&lock)
{
}
EXPORT_SYMBOL(over_lines);

SYSCALL_DEFINE3(ioctl, unsigned int, fd, unsigned int, cmd, unsigned long, arg)
{
	return 0;
}

COMPAT_SYSCALL_DEFINE1(settime, int __user *, tv)
{
	return 0;
}

BPF_CALL_2(bpf_twice, int, a, int, b)
{
	return 0;
}
LIST_HEAD(no_semicolon)

asmlinkage __visible void __sched schedule(void)
{
	struct thing t = { .call = NULL };
}

#ifdef CONFIG_A
static int branched(int a)
{
	if (a) {
#else
static int branched(void)
{
	{
#endif
	}
	return 0;
}

static inline struct thing *pointer(struct thing *t) { return t; }
DEFINE_SHOW_ATTRIBUTE(thing);
static DEFINE_OPS(made)
{
}
"""


def test_the_functions_of_a_file() -> None:
    lines = SOURCE.split(b"\n")
    found = functions(SOURCE)
    assert [function.name for function in found] == [
        "plain",
        "over_lines",
        "__do_sys_ioctl",
        "__do_compat_sys_settime",
        "____bpf_twice",
        "schedule",
        "branched",
        "pointer",
        "made",
    ]
    starts = [lines[function.start - 1] for function in found]
    assert starts[:2] == [b"static int plain(int x)", b"static __printf(1, 2) void __init"]
    assert starts[5] == b"asmlinkage __visible void __sched schedule(void)"
    assert all(lines[function.end - 1].rstrip().endswith(b"}") for function in found)


def test_a_system_call_goes_by_all_its_names() -> None:
    names = functions(SOURCE)[2].names
    assert {"ioctl", "sys_ioctl", "__x64_sys_ioctl", "__se_sys_ioctl", "__do_sys_ioctl"} == names


@given(st.binary(max_size=300))
def test_anything_can_be_scanned(noise: bytes) -> None:
    for content in (noise, SOURCE[:500] + noise, SOURCE + noise):
        count = content.count(b"\n") + 1
        assert all(1 <= function.start <= function.end <= count for function in functions(content))
