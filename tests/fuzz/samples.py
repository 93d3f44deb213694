"""Small inputs of our own writing, one of each shape that the readers know; real ones are added where a kernel is prepared."""

from __future__ import annotations

import io
import tarfile
from functools import lru_cache

from tests.unit.factory.compiling import compile_c

from kmend.core.process import run

_UNIT = r"""
static int counter;
int shared = 5;
extern int elsewhere(const char *, ...);
static const char *names[] = { "one", "two", "three" };
__attribute__((noinline)) static int slow(int x) { static int calls; return elsewhere("slow %d\n", x + ++calls); }
__attribute__((cold, noinline)) static int seldom(int x) { return elsewhere(__func__, x, shared); }
int pick(int x)
{
	static int last;
	if (x > 1000)
		return seldom(x);
	switch (x) {
	case 0: return slow(1); case 1: return counter++; case 2: return last += x; case 3: return slow(x) + 9;
	case 4: return shared; case 5: return names[counter & 1][0]; case 6: return MORE;
	}
	return last;
}
__attribute__((section(".sched.text"))) int wait_for(int x) { return pick(x) + slow(x); }
__attribute__((section(".sched.text"))) int wait_more(int x) { return wait_for(x) + 1; }
__attribute__((weak)) int perhaps(void) { return counter; }
int (*table[])(int) = { pick, wait_for, slow };
int risky(int *p)
{
	int found = 0;
	asm volatile("1: movl (%1), %0\n2:\n"
		".pushsection __ex_table,\"a\"\n.long 1b - .\n.long 2b - .\n.long 3\n.popsection\n"
		".pushsection __bug_table,\"aw\"\n.long 1b - .\n.long 4f - .\n.word 77\n.word 1\n.popsection\n"
		".pushsection .altinstructions,\"a\"\n.long 1b - .\n.long 5f - .\n.word 3\n.byte 2b-1b\n.byte 6f-5f\n.popsection\n"
		".pushsection .altinstr_replacement,\"ax\"\n5: nop\n6:\n.popsection\n"
		".pushsection __jump_table,\"aw\"\n.long 1b - .\n.long 2b - .\n.quad shared - .\n.popsection\n"
		".pushsection .static_call_sites,\"aw\"\n.long 1b - .\n.long shared - .\n.popsection\n"
		".pushsection .parainstructions,\"a\"\n.quad 1b\n.byte 1\n.byte 2\n.balign 8\n.popsection\n"
		".pushsection .smp_locks,\"a\"\n.long 1b - .\n.popsection\n"
		".pushsection .orc_unwind_ip,\"a\"\n.long 1b - .\n.popsection\n"
		".pushsection .orc_unwind,\"a\"\n.word 8\n.word 0\n.word 5\n.popsection\n"
		".pushsection .rodata.str1.1,\"aMS\",@progbits,1\n4: .asciz \"file.c\"\n.popsection\n"
		: "=r"(found) : "r"(p));
	return found;
}
"""

_PROGRAM = r"""
int a = 1; int *b = &a; static int c; int linux_banner;
int *d(void) { return &c; }
int _start(void) { return *b + *d(); }
asm(".pushsection .notes,\"a\",@note\n.long 4, 20, 3\n.asciz \"GNU\"\n.fill 20, 1, 7\n.popsection\n"
    ".pushsection .init.data,\"aw\"\n.globl __start_mcount_loc, __stop_mcount_loc\n"
    "__start_mcount_loc: .quad d, _start\n__stop_mcount_loc:\n.popsection\n");
"""

PATCH = b"""From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: A Person <person@example.org>
Date: Thu, 1 Jan 2026 00:00:00 +0000
Subject: [PATCH 1/2] =?utf-8?q?x=3A_caf=C3=A9?=
CVE: CVE-2026-12345, CVE-2026-12346
Kmend-Allow: changed-data limit -- nobody has read it yet

The story.
---
 a.c | 4 ++--
diff --git a/net/a.c b/net/a.c
index 0123456..89abcde 100644
--- a/net/a.c
+++ b/net/a.c
@@ -1,6 +1,7 @@ static int f(void)
 #if A
 int f(int x)
 {
-\treturn "a(";
+\treturn '"' /* ( */ + call(x,
+\t\ty); // "
 }
 #else
@@ -40,3 +41,2 @@
 #endif
-#define B(x) \\
-\t(x)
+#define B(x) (x)
\\ No newline at end of file
diff --git a/new.c b/new.c
new file mode 100644
--- /dev/null
+++ b/new.c
@@ -0,0 +1 @@
+int y;
diff --git a/old.c b/old.c
deleted file mode 100644
--- a/old.c
+++ /dev/null
@@ -1,2 +0,0 @@
-int z;
-int a;
--\x20
2.39.5
"""
DEP3 = b"""Description: limit the count
 A longer story
 .
 of two paragraphs.
Origin: upstream, commit 0123456789
Bug-Debian: https://bugs.example.org/1
Applied-Upstream: v6.2
Last-Update: 2026-01-01
CVE: CVE-2026-1111
Index: linux/kernel/x.c
===================================================================
--- linux.orig/kernel/x.c\t2026-01-01 00:00:00
+++ linux/kernel/x.c\t2026-01-02 00:00:00
@@ -10 +10 @@
-\tlimit = 10;
+\tlimit = 11;
"""
LISTS = (
    (
        b"0000000000000000 A __per_cpu_start\nffffffff81000000 T _text\nffffffff81000000 T startup_64\n"
        b"ffffffff81000100 t __start_x\nffffffff81000100 W y_end\nffffffff81000200 d twice\nffffffff81000300 d twice\n"
    ),
    b"0x12345678\tprintk\tvmlinux\tEXPORT_SYMBOL\t\n0x9abcdef0\tx\tdrivers/a/b-c\tEXPORT_SYMBOL_GPL\tNS\n",
    b'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="text"\n',
    b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0" + bytes(range(20)),
)


@lru_cache(maxsize=1)
def sample_objects() -> tuple[bytes, ...]:
    """The same unit compiled in several ways; the first is the plain one."""
    flags = (
        "-ffunction-sections", "-fdata-sections", "-fno-pic", "-fno-pie", "-mcmodel=kernel", "-mno-sse", "-mno-red-zone",
        "-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-ffreestanding", "-w",
    )  # fmt: skip
    return (
        compile_c(_UNIT, "-O2", "-DMORE=1", *flags),
        compile_c(_UNIT, "-O2", "-DMORE=slow(2)", *flags),
        compile_c(_UNIT, "-O1", "-DMORE=2", "-fno-pic", "-fno-pie", "-mcmodel=kernel", "-fno-stack-protector", "-w"),
        compile_c(_UNIT, "-O1", "-g", "-DMORE=2", *flags),
        compile_c(_UNIT, "-O1", "-gdwarf-4", "-DMORE=2", *flags),
    )


def samples() -> dict[str, tuple[bytes, ...]]:
    """Target -> inputs."""
    objects = sample_objects()
    return {
        "patch": (PATCH, DEP3),
        "object": objects,
        "image": (*objects, sample_program()),
        "package": sample_packages(),
        "lists": LISTS,
    }


@lru_cache(maxsize=1)
def sample_packages() -> tuple[bytes, ...]:
    """Packages of three files, compressed in one block and in several, as dpkg-deb does."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number, name in enumerate(("./a", "./" + "long/" * 30 + "b", "./c")):
            entry = tarfile.TarInfo(name)
            entry.size = 3000 * number
            archive.addfile(entry, io.BytesIO(bytes(n * number % 251 for n in range(entry.size))))
    found = []
    for options in ([], ["--block-size=2048"], ["--block-size=4096", "-T2"]):
        data = run(["xz", "--stdout", *options], stdin=plain.getvalue()).stdout
        parts = (("debian-binary", b"2.0\n"), ("control.tar.xz", b""), ("data.tar.xz", data))
        found.append(b"!<arch>\n" + b"".join(_ar_member(name, content) for name, content in parts))
    return tuple(found)


def _ar_member(name: str, content: bytes) -> bytes:
    return (
        f"{name:16}{0:<12}{0:<6}{0:<6}{'100644':8}{len(content):<10}`\n".encode() + content + b"\n" * (len(content) % 2)
    )


@lru_cache(maxsize=1)
def sample_program() -> bytes:
    """A linked file that keeps its relocations, as the debug vmlinux does."""
    return compile_c(_PROGRAM, "-nostdlib", "-static", "-no-pie", "-Wl,--emit-relocs", "-w", link=True)
