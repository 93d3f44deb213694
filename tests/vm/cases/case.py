"""A case: a small fix, how its effect is seen, and what must be seen before it is loaded, while it is, and after."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.fixmaker import Edit, FixMaker

from kmend import lab
from kmend.factory.fixes import Fix


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    Attributes:
        name: as docs/builder-cases.md calls it.
        edits: of the kernel's source.
        probe: a script for the guest; /call is tests/vm/cases/call.c.
        before, after: patterns that its output matches without the fix and with it.
        replaces: the functions that are redirected, as sysfs names them.
        allows: what the fix's author vouches for, as `code symbol`.
        pinned: whether the level must stay loaded.
    """

    name: str
    edits: Sequence[Edit]
    probe: str
    before: str
    after: str
    replaces: frozenset[str] = frozenset()
    allows: Sequence[str] = field(default=())
    pinned: bool = False


def fix_of(maker: FixMaker, cases: Sequence[Case]) -> Fix:
    """One fix that makes the edits of all cases."""
    lines = [f"Kmend-Allow: {words} -- a test" for case in cases for words in case.allows]
    header = "\n".join(["Description: a case", *lines, "---", ""])
    return maker.fix(*(edit for case in cases for edit in case.edits), header=header)


def seen(vm: lab.Vm, case: Case) -> str:
    """What the case's probe prints."""
    return vm.sh(case.probe, check=False).text


def matches(pattern: str, text: str) -> bool:
    """Whether a probe's output is as expected."""
    return re.search(pattern, text, re.MULTILINE) is not None
