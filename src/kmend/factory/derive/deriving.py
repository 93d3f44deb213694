"""From two package versions to a patch file: choose among the differences, and tell their story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from kmend.core.errors import KmendError
from kmend.factory.derive.changelog import date_of, title_of
from kmend.factory.derive.difference import Change, compare, hunks
from kmend.factory.fixes import apply_series, parse_fix
from kmend.factory.kernels.sources import changelog, source_files

_SOURCE_SUFFIXES = (".c", ".h")
_MAX_LISTED = 40


class DeriveError(KmendError):
    """There is no difference of the kind that was asked for. The request is at fault: programs end with status 2."""

    kind = "derive"
    exit_status = 2


class NothingDiffersError(DeriveError):
    """A file is the same in both versions, or missing from one."""

    kind = "nothing-differs"


class NotChangedThereError(DeriveError):
    """The file differs, but not in the functions or hunks that were asked for."""

    kind = "not-changed-there"


@dataclass(frozen=True, slots=True)
class DerivedChange:
    """A change that was taken or left out.

    Attributes:
        file: where it is.
        hunk: number of the hunk of the whole difference that it belongs to; what `--hunk` names.
        line: in the old file, from 1.
        functions: that it lies in; empty for lines outside functions.
        removed: how many lines it removes.
        added: how many it adds.
    """

    file: str
    hunk: int
    line: int
    functions: tuple[str, ...]
    removed: int
    added: int

    def __str__(self) -> str:
        where = ", ".join(self.functions) or "outside functions"
        return f"{self.file}: hunk {self.hunk}, line {self.line}, {where} (-{self.removed} +{self.added})"


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen part of the difference between two versions of files, as unified hunks without a header."""

    patch: bytes
    taken: tuple[DerivedChange, ...]
    left: tuple[DerivedChange, ...]


@dataclass(frozen=True, slots=True)
class Derived:
    """A derived fix.

    Attributes:
        content: the patch file; the same for the same request, byte for byte.
        title: its first line.
        taken: the changes in it.
        left: the changes to the same files that are not.
        notes: what a person should know.
    """

    content: bytes
    title: str
    taken: tuple[DerivedChange, ...]
    left: tuple[DerivedChange, ...]
    notes: tuple[str, ...]


def derive(
    old_version: str,
    new_version: str,
    paths: Sequence[str],
    *,
    wanted_functions: Sequence[str] = (),
    wanted_hunks: Sequence[int] = (),
    cves: Sequence[str] = (),
    subject: str = "",
) -> Derived:
    """Make a fix out of the difference between two source packages.

    Args:
        old_version: package version of the kernel to mend; the fix applies to its source.
        new_version: package version of the kernel that has the change.
        paths: source files to compare.
        wanted_functions: take only changes that lie inside these functions; empty takes all.
        wanted_hunks: take only these hunks of the whole difference; empty takes all. Needs a single file.
        cves: what the fix closes.
        subject: its title; by default what the newer package's changelog says of the CVE.

    Raises:
        NothingDiffersError, NotChangedThereError: there is no such difference; the message says what there is.
        FixError: a CVE identifier or the subject cannot stand in a header.
        PackageProblemError: a source package cannot be had.
    """
    ordered = sorted(set(paths))
    if wanted_hunks and len(ordered) != 1:
        raise DeriveError("hunks are numbered by file", hint="with --hunk, name a single --file")
    old, new = source_files(old_version, ordered), source_files(new_version, ordered)
    versions = (old_version, new_version)
    pairs: dict[str, tuple[bytes, bytes]] = {}
    for path in ordered:
        before, after = old[path], new[path]
        if before is None or after is None:
            absent = [version for version, content in zip(versions, (before, after), strict=True) if content is None]
            raise NothingDiffersError(
                f"{path} does not exist in {' and '.join(absent)}",
                hint="paths are relative to the kernel's source tree; whole files that come or go are no fix",
            )
        pairs[path] = (before, after)
    selection = select(pairs, wanted_functions=wanted_functions, wanted_hunks=wanted_hunks, versions=versions)
    story = changelog(new_version)
    title, notes = _title(story, selection, cves, subject, new_version)
    content = _header(selection, versions, title, cves, date_of(story, new_version)) + selection.patch
    _check(content, pairs)
    return Derived(content, title, selection.taken, selection.left, notes)


def select(
    pairs: dict[str, tuple[bytes, bytes]],
    *,
    wanted_functions: Sequence[str] = (),
    wanted_hunks: Sequence[int] = (),
    versions: tuple[str, str] = ("old", "new"),
) -> Selection:
    """Choose among the differences of files in memory.

    Args:
        pairs: by path, the content before and after.
        wanted_functions: as for `derive`.
        wanted_hunks: as for `derive`.
        versions: names of both sides, for messages.

    Raises:
        NothingDiffersError, NotChangedThereError: as for `derive`.
    """
    patch: list[bytes] = []
    taken: list[DerivedChange] = []
    left: list[DerivedChange] = []
    unfound = dict.fromkeys(wanted_functions)
    for path, (old, new) in sorted(pairs.items()):
        is_c = PurePosixPath(path).suffix in _SOURCE_SUFFIXES
        changes = compare(old, new, is_c=is_c)
        if not changes:
            raise NothingDiffersError(
                f"{path} is the same in {versions[0]} and {versions[1]}",
                hint="choose other versions, or look in the changelog which file the change is in",
            )
        chosen = [change for change in changes if _is_wanted(change, wanted_functions, wanted_hunks)]
        taken += [_told(path, change) for change in chosen]
        left += [_told(path, change) for change in changes if change not in chosen]
        for change in chosen:
            for name in {name for names in change.names for name in names}:
                unfound.pop(name, None)
        if chosen:
            patch.append(f"--- a/{path}\n+++ b/{path}\n".encode() + hunks(old, new, chosen, is_c=is_c))
    if unfound or not taken or not set(wanted_hunks) <= {change.hunk for change in taken}:
        raise _not_there(sorted(pairs), versions, list(unfound), wanted_hunks, left + taken)
    return Selection(b"".join(patch), tuple(taken), tuple(left))


def _is_wanted(change: Change, wanted_functions: Sequence[str], wanted_hunks: Sequence[int]) -> bool:
    if wanted_hunks and change.hunk not in wanted_hunks:
        return False
    return not wanted_functions or all(names & set(wanted_functions) for names in change.names)


def _told(path: str, change: Change) -> DerivedChange:
    return DerivedChange(
        file=path,
        hunk=change.hunk,
        line=change.old_start + 1,
        functions=tuple(name for name in change.functions if name),
        removed=change.old_end - change.old_start,
        added=change.new_end - change.new_start,
    )


def _not_there(
    paths: Sequence[str],
    versions: tuple[str, str],
    unfound: Sequence[str],
    wanted_hunks: Sequence[int],
    changes: Sequence[DerivedChange],
) -> NotChangedThereError:
    """The error for a choice that selects nothing, listing what could have been chosen."""
    named = f"in {', '.join(unfound)}" if unfound else f"in hunk {', '.join(str(number) for number in wanted_hunks)}"
    shared = next((change for change in changes if set(change.functions) & set(unfound)), None)
    if shared is not None and len(shared.functions) > 1:
        hint = f"a change reaches over several functions, name them all: {', '.join(shared.functions)}"
    elif shared is not None:
        hint = f"the change there reaches beyond the function; take it with --hunk {shared.hunk}"
    else:
        listed = sorted({(change.file, change.hunk, str(change)) for change in changes})
        shown = [text for _, _, text in listed[:_MAX_LISTED]]
        more = [f"and {len(listed) - _MAX_LISTED} more"] if len(listed) > _MAX_LISTED else []
        hint = "what differs: " + "; ".join(shown + more)
    return NotChangedThereError(
        f"between {versions[0]} and {versions[1]}, {', '.join(paths)} does not differ {named}", hint=hint
    )


def _title(
    story: str, selection: Selection, cves: Sequence[str], subject: str, new_version: str
) -> tuple[str, tuple[str, ...]]:
    """The fix's title, and notes about CVEs that the changelog does not know."""
    titles = {cve: title_of(story, cve) for cve in cves}
    notes = tuple(
        f"the changelog up to {new_version} does not name {cve}; check that this change closes it"
        for cve, title in titles.items()
        if title is None
    )
    told = next((title for title in titles.values() if title), None)
    where = ", ".join(dict.fromkeys(name for change in selection.taken for name in change.functions))
    files = ", ".join(dict.fromkeys(change.file for change in selection.taken))
    fallback = f"{files}: {where or 'the change'} as in {new_version}"
    return " ".join(subject.split()) or told or fallback, notes


def _header(
    selection: Selection, versions: tuple[str, str], title: str, cves: Sequence[str], date: str | None
) -> bytes:
    lines = [
        f"Description: {title}",
        f" The difference between Debian's kernel sources {versions[0]} and {versions[1]}:",
    ]
    for path in dict.fromkeys(change.file for change in selection.taken):
        here = [change for change in selection.taken if change.file == path]
        names = ", ".join(dict.fromkeys(name for change in here for name in change.functions)) or "outside functions"
        left = sum(change.file == path for change in selection.left)
        lines.append(f" {path}: {names}" + (f" (changes to this file left out: {left})" if left else ""))
    lines.append(f"Origin: vendor, Debian linux {versions[1]} (difference to {versions[0]})")
    if cves:
        lines.append(f"CVE: {', '.join(dict.fromkeys(cves))}")
    if date is not None:
        lines.append(f"Last-Update: {date}")
    return "\n".join([*lines, "---", ""]).encode()


def _check(content: bytes, pairs: dict[str, tuple[bytes, bytes]]) -> None:
    """What we write, we can read and apply."""
    fix = parse_fix(content, "the derived fix")
    for path, applied in apply_series(lambda path: pairs[path][0], [fix]).items():
        if any(placement.offset for placement in applied.placements):
            raise DeriveError(f"the derived fix does not lie where it should in {path}", hint="please report this")
