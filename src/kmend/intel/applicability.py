"""What a CVE means for one kernel build: nothing, or which of its objects have the code; and what that rests on.

Filters, each of which may only take away what it has evidence for: the release, the distro's own fixes, what was compiled. A file
that the facts do not know, a header, a record that names no file: all of these leave the CVE standing. `unknown` is never `not
affected`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from kmend.core.errors import MalformedError
from kmend.core.facts import KernelFacts, MadeFrom
from kmend.intel.feeds.cna import CveRecord
from kmend.intel.ranges import is_vulnerable
from kmend.intel.versions import KernelVersion

RULES = "kmend-applicability/3"
"""Stands beside every answer: a change of these rules changes it."""
_VMLINUX = "vmlinux"
_ARCHITECTURES = {
    "x86_64": "x86",
    "i686": "x86",
    "aarch64": "arm64",
    "ppc64le": "powerpc",
    "s390x": "s390",
    "riscv64": "riscv",
}
_BESIDE = ("Documentation/", "tools/", "samples/", "scripts/", "LICENSES/", "usr/")
"""Not of the kernel itself."""
_CODE = (".c", ".S", ".rs")


class Presence(str, enum.Enum):
    """Where the code of a fix is, in one build."""

    BUILT_IN = "built in"
    MODULE = "module"
    NOT_BUILT = "not built"
    UNKNOWN = "unknown"


class Reason(str, enum.Enum):
    """Why a build is not affected, or why that is not known."""

    RELEASE = "release"
    """The release never had it, or has it mended."""
    FIXED_IN_BUILD = "fixed in this build"
    """The distro says so of its own package."""
    NOT_BUILT = "not built"
    REJECTED = "rejected"
    """The CNA has taken the CVE back."""
    NO_RECORD = "no record"
    """No feed that is imported describes it."""
    PRESENT = "present"


@dataclass(frozen=True, slots=True)
class Build:
    """A kernel build, as far as CVEs are concerned.

    Attributes:
        package: version of the distro's source package.
        fixed: CVEs that the distro has mended in it or before, by its own word.
        facts: None if nobody has looked into the build.
        again: those of `fixed` that a stable update had mended, and that a later upload mends once more. Such a fix was taken
            back in between, if the CNA's ranges, too, say that the release has the bug (CVE-2024-27022: 6.1.90, then 6.1.191).
    """

    package: str
    fixed: frozenset[str]
    facts: KernelFacts | None
    again: frozenset[str] = frozenset()

    @property
    def release(self) -> KernelVersion:
        """The release that it is made from.

        Raises:
            MalformedError: the package's version does not say.
        """
        return KernelVersion.of_package(self.package)


@dataclass(frozen=True, slots=True)
class Applicability:
    """What one CVE means for one build.

    Attributes:
        affected: None if that is not known.
        objects: which hold the code: `vmlinux`, modules; empty if none does, or it is not known.
        evidence: what it rests on, a line each.
        in_c: a file in C that the fix changes was compiled.
        complete: nothing but `objects` can have the code: of no file, such as a header, it is unknown where it went.
    """

    cve: str
    affected: bool | None
    reason: Reason
    presence: Presence
    objects: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    in_c: bool = False
    complete: bool = False


def judge(cve: str, record: CveRecord | None, build: Build, *, rejected: bool = False) -> Applicability:
    """What a CVE means for a build.

    Args:
        record: what the CNA says of it; None if there is none.
        rejected: the CNA has taken it back.
    """
    if rejected:
        return Applicability(cve, False, Reason.REJECTED, Presence.UNKNOWN, (), ("the CNA has rejected it",))
    try:
        release = build.release
    except MalformedError:
        release = None
    # Of a package that names no release, ranges say nothing: then the code alone can take a CVE away.
    within = record is not None and (release is None or is_vulnerable(record.pairs, release))
    taken_back = cve in build.again and within
    if cve in build.fixed and not taken_back:
        line = f"the distro's changelog names it in {build.package} or before"
        return Applicability(cve, False, Reason.FIXED_IN_BUILD, Presence.UNKNOWN, (), (line,))
    if record is None:
        line = "no feed that is imported describes it"
        return Applicability(cve, None, Reason.NO_RECORD, Presence.UNKNOWN, (), (line,))
    if release is not None and not within:
        return Applicability(cve, False, Reason.RELEASE, Presence.UNKNOWN, (), (_of_release(record, release),))
    presence, objects, evidence, complete = locate(record.files, build.facts)
    told = f"Linux {release} has it, by the CNA's ranges"
    if release is None:
        told = f"{build.package} names no release of Linux: whether it has the bug is not known"
    if taken_back:
        told += "; the distro names it before this build, and again later: the first fix was taken back"
    evidence = (told, *evidence)
    if presence is Presence.NOT_BUILT:
        return Applicability(cve, False, Reason.NOT_BUILT, presence, (), evidence)
    affected = None if presence is Presence.UNKNOWN or release is None else True
    in_c = build.facts is not None and any(name.endswith(".c") and name in build.facts.sources for name in record.files)
    return Applicability(cve, affected, Reason.PRESENT, presence, objects, evidence, in_c, complete)


def locate(files: Iterable[str], facts: KernelFacts | None) -> tuple[Presence, tuple[str, ...], tuple[str, ...], bool]:
    """Where the code of these files is: how, in which objects, what that rests on, and whether it can be nowhere else.

    `not built` needs evidence for every file that may be code of the kernel: one that is not known, and be it a header, makes the
    whole unknown, unless another file is there.
    """
    if facts is None:
        return Presence.UNKNOWN, (), ("nobody has looked into this build",), False
    named = [name for name in files if name in facts.sources or not name.startswith(_BESIDE)]
    objects: dict[str, None] = {}
    lines: list[str] = []
    open_questions = not named
    left_out = _left_out(facts)
    ruled_out = False
    # Of a machine that is not in the table it is not known which folder is its own.
    folder = _ARCHITECTURES.get(facts.kernel.architecture)
    own = f"arch/{folder}/" if folder is not None else "arch/"
    for name in named:
        if name in facts.sources:
            holders = facts.sources[name]
            objects.update(dict.fromkeys(holders))
            lines.append(
                f"{name} is in {', '.join(holders[:4])}" + (f" and {len(holders) - 4} more" if len(holders) > 4 else "")
            )
        elif name.startswith("arch/") and not name.startswith(own):
            ruled_out = True
            lines.append(f"{name} is of another architecture")
        elif name in left_out:
            ruled_out = True
            by = " by the source's Makefiles" if facts.made_from is MadeFrom.KBUILD else ""
            lines.append(f"{name} was not compiled{by}")
        elif name.rpartition("/")[2].startswith(("Kconfig", "Makefile")):
            lines.append(f"{name} holds no code")
        else:
            open_questions = True
            what = "is no translation unit"
            if name.endswith(_CODE):
                what = "is not in this tree under that name, or whether it was compiled cannot be told"
            lines.append(f"{name} {what}")
    if not named:
        lines.append("the record names no file of the kernel's")
    if named and not objects and not ruled_out and not open_questions:
        # What is mended by configuration alone is a bug of code that the record does not name.
        open_questions = True
    if objects:
        presence = Presence.BUILT_IN if _VMLINUX in objects else Presence.MODULE
        return presence, tuple(objects), tuple(lines), not open_questions
    return (Presence.UNKNOWN if open_questions else Presence.NOT_BUILT), (), tuple(lines), not open_questions


_left: dict[int, tuple[KernelFacts, frozenset[str]]] = {}


def _left_out(facts: KernelFacts) -> frozenset[str]:
    """The same as a set, made once for each document."""
    found = _left.get(id(facts))
    if found is None or found[0] is not facts:
        _left.clear()
        found = _left[id(facts)] = (facts, frozenset(facts.left_out))
    return found[1]


def _of_release(record: CveRecord, release: KernelVersion) -> str:
    mended = [pair.fixed for pair in record.pairs if pair.fixed is not None and pair.fixed.is_in(release)]
    if mended:
        return f"Linux {release} has the fix, which came with {max(mended)}"
    return f"Linux {release} never had the bug, by the CNA's ranges"
