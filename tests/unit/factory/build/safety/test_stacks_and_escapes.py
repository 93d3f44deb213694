"""Code on stacks, and addresses that are handed out, in small objects."""

from __future__ import annotations

import pytest
from tests.unit.factory.compiling import compile_c

from kmend.factory.build.compare import compare
from kmend.factory.build.safety.escapes import escaping_data
from kmend.factory.build.safety.kernelsets import waits_in_a_loop
from kmend.factory.build.safety.stacks import Resident, resident_notices, resident_refusals, unseen_code
from kmend.factory.build.unit import External, Unit
from kmend.factory.elf import read_object
from kmend.factory.elf.instructions import direct_branches

HEAD = """
extern void sleep(void), quick(void), report(int) __attribute__((cold));
extern long outside(long); extern int flag; extern void keep(const void *);
#define apart __attribute__((noinline))
"""


def unit_of(text: str) -> Unit:
    """The elements of a file."""
    return Unit("unit.c", read_object(compile_c(HEAD + text)))


def unseen(old: str, new: str) -> list[str]:
    """Why the livepatch that makes `new` of `old` must stay, because of unseen code."""
    comparison = compare(unit_of(old), unit_of(new))
    added = frozenset(element.name for element in comparison.added)
    return list(unseen_code(comparison, added, lambda name: name in ("sleep", "report")))


INNER = "apart static long h(long n) { sleep(); flag = 2; return n; }"
OLD = "long f(long n) { return outside(n); }\n"


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ("apart static long g(long n) { sleep(); return n + flag; } long f(long n) { flag = 1; return g(n); }",
         "a task may sleep in g (in sleep) unseen by livepatch, since it is jumped to from f"),
        (f"{INNER} apart static long g(long n) {{ return h(n) + 1; }} long f(long n) {{ flag = 1; return g(n); }}",
         "a task may sleep in g (in h) unseen by livepatch, since it is jumped to from f"),
        ("long f(long n) { if (n < 0) { report(1); report(2); } return outside(n); }", "since it is apart from its function"),
        ("apart static long g(long n) { quick(); return n + flag; } long f(long n) { flag = 1; return g(n); }", ""),
        ("apart static long g(long n) { sleep(); return n + flag; } long f(long n) { return g(n) + 1; }", ""),
        ("long f(long n) { sleep(); return outside(n); }", ""),
    ],
    ids=["jumped to", "by another one", "cold", "it does not sleep", "called", "in the replacement itself"],
)  # fmt: skip
def test_unseen_code(new: str, said: str) -> None:
    found = unseen(OLD, new)
    assert len(found) == bool(said)
    assert not said or found[0].endswith(said)


def escaping(new: str) -> list[str]:
    """Why it must stay, because of addresses of new data."""
    comparison = compare(unit_of(OLD), unit_of(new))
    return list(escaping_data(comparison, [element for _, element in comparison.changed]))


TABLE = "static void (*const table[])(void) = { sleep, quick };"
HEADS = "static struct { void *next, *prev; } list;"


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (f"{TABLE} long f(long n) {{ keep(table); return outside(n); }}", True),
        (f"{TABLE} long f(long n) {{ table[n & 1](); return outside(n); }}", False),
        (f"{HEADS} long f(long n) {{ keep(&list); return outside(n); }}", True),
        (f"{HEADS} long f(long n) {{ list.next = 0; list.prev = (void *)n; return outside(n); }}", False),
        ("static const int numbers[] = { 1, 2, 3, 4 }; long f(long n) { keep(numbers); return outside(n); }", False),
        ("static int count; long f(long n) { keep(&count); return outside(n); }", False),
    ],
    ids=["a table handed out", "a table read", "a list's head", "written in place", "numbers only", "a counter"],
)
def test_addresses_of_new_data(new: str, told: bool) -> None:
    found = escaping(new)
    assert len(found) == told
    assert not told or "which f hands out" in found[0]


@pytest.mark.parametrize(
    ("body", "waits"),
    [
        ("for (;;) { if (flag) sleep(); quick(); }", True),
        ("do { quick(); sleep(); } while (!flag);", True),
        ("sleep(); do quick(); while (!flag);", False),
        ("while (!flag) quick(); sleep();", False),
        ("if (flag) sleep(); quick();", False),
    ],
)
def test_waiting_in_a_loop(body: str, waits: bool) -> None:
    (function,) = unit_of(f"void f(void) {{ {body} }}").functions
    calls = [r.offset for r in function.references if isinstance(r.target, External) and r.target.name == "sleep"]
    assert waits_in_a_loop(list(direct_branches(function.content)), calls) == waits


def test_the_warning() -> None:
    resident = Resident("a.c", "kthing", "it is the main loop")
    (notice,) = resident_notices([resident])
    (refusal,) = resident_refusals([resident])
    assert (refusal.code.value, refusal.file, refusal.symbol) == ("always-on-stack", "a.c", "kthing")
    assert refusal.message == notice.message
    assert notice.code == "always-on-stack"
    assert notice.message.startswith("kthing is always on some stack: it is the main loop; the transition may never")
