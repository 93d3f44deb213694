"""A feed in a git repository: an operator's checkout, a bare repository, or a copy that the server keeps of one elsewhere.

What is read comes from the commit, out of git's own store, and never from the files of a working tree, which somebody may be
changing. Of the repository's configuration nothing is run: no hooks, no filters, no file system monitor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from kmend.core.errors import MalformedError
from kmend.core.process import ProgramFailedError, run
from kmend.intel.feeds.archives import MAX_FILE, MAX_MEMBERS, MAX_TOTAL, Files, Wanted
from kmend.server.feeds.errors import FeedError
from kmend.server.feeds.fetching import environment
from kmend.trust.addresses import shown

MAX_PACK = 4 * 1024**3
"""Of any file that git may write, so that a repository cannot fill the disk."""
AT_ONCE = 2000
_READ_SECONDS = 300
_BRANCH = "refs/heads/feed"
_SAFE = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
)
_SLOW = ("-c", "http.lowSpeedLimit=16384", "-c", "http.lowSpeedTime=60")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_ENTRY = re.compile(rb"100(?:644|755) blob ([0-9a-f]{40,64}) +(\d{1,15})\t(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Repository:
    """One that is on this machine.

    Attributes:
        path: of the checkout, or of the bare repository.
    """

    path: Path

    @classmethod
    def at(cls, path: Path) -> Repository | None:
        """The repository in a folder; None if there is none."""
        bare = (path / "HEAD").is_file() and (path / "objects").is_dir()
        return cls(path) if bare or (path / ".git").exists() else None

    @classmethod
    def copied(cls, folder: Path, url: str, *, seconds: float, ca_file: str = "") -> Repository:
        """The server's own copy of one elsewhere, made or brought up to date.

        Raises:
            FeedError: it cannot be had, or its history is not the one that it was.
        """
        made = cls(folder)
        if cls.at(folder) is None:
            made._git("init", "-q", "--bare", str(folder), there=False)
        made._fetch(
            ["fetch", "-q", "--no-tags", "--no-write-fetch-head", url, f"HEAD:{_BRANCH}"], url, seconds, ca_file
        )
        made._git("symbolic-ref", "HEAD", _BRANCH)
        return made

    def pull(self, *, seconds: float, ca_file: str = "") -> bool:
        """`git pull --ff-only`, where there is a working tree that follows something; whether there is.

        Raises:
            FeedError: it did not succeed; what was there still is.
        """
        if not (self.path / ".git").exists():
            return False
        follows = self._git("rev-parse", "--abbrev-ref", "@{upstream}", check=False)
        if follows == b"":
            return False
        self._fetch(["-C", str(self.path), "pull", "-q", "--ff-only", "--no-rebase"], str(self.path), seconds, ca_file)
        return True

    def commit(self) -> tuple[str, int]:
        """The newest commit, and its time in seconds since 1970-01-01 UTC.

        Raises:
            FeedError: there is none.
        """
        words = self._git("log", "-1", "--format=%H %ct").decode("ascii", "replace").split()
        if len(words) != 2 or not _COMMIT.fullmatch(words[0]) or not words[1].isdigit():
            raise FeedError(f"{self.path} has no commit")
        return words[0], int(words[1])

    def has(self, commit: str) -> bool:
        """Whether a commit is there; of what is no commit's ID it is not."""
        return bool(_COMMIT.fullmatch(commit)) and self._git("cat-file", "-t", commit, check=False) == b"commit\n"

    def changed(self, old: str, new: str) -> list[str]:
        """Files in which two commits differ."""
        found = self._git("diff-tree", "-r", "-z", "--no-renames", "--name-only", old, new)
        return [name.decode("utf-8", "replace") for name in found.split(b"\0") if name]

    def files(self, commit: str, wanted: Wanted) -> Files:
        """The files of a commit that are wanted; no links.

        Raises:
            MalformedError: they are too many, or too much.
        """
        chosen: list[tuple[str, bytes, int]] = []
        left = MAX_TOTAL
        for count, entry in enumerate(self._git("ls-tree", "-r", "-l", "-z", commit).split(b"\0")):
            match = _ENTRY.fullmatch(entry)
            if count > MAX_MEMBERS:
                raise MalformedError(f"{self.path} holds more than {MAX_MEMBERS} files")
            if match is None:
                continue
            name, size = match[3].decode("utf-8", "replace"), int(match[2])
            if wanted(name):
                left -= min(size, MAX_FILE + 1)
                chosen.append((name, match[1], size))
            if left < 0:
                raise MalformedError(f"{self.path} holds more than is read of it at most")
        for first in range(0, len(chosen), AT_ONCE):
            yield from self._contents(chosen[first : first + AT_ONCE])

    def _contents(self, chosen: Sequence[tuple[str, bytes, int]]) -> Iterator[tuple[str, bytes]]:
        small = [item for item in chosen if item[2] <= MAX_FILE]
        yield from ((name, bytes(MAX_FILE + 1)) for name, _, size in chosen if size > MAX_FILE)
        if not small:
            return
        asked = b"".join(blob + b"\n" for _, blob, _ in small)
        found = memoryview(self._git("cat-file", "--batch", stdin=asked))
        place = 0
        for name, blob, size in small:
            head = b"%s blob %d\n" % (blob, size)
            if found[place : place + len(head)] != head:
                raise FeedError(f"git has lost {name} of {self.path}", hint="git fsck tells what is missing")
            place += len(head)
            yield name, bytes(found[place : place + size])
            place += size + 1

    def _git(self, *words: str, stdin: bytes | None = None, check: bool = True, there: bool = True) -> bytes:
        # Another account's repository: it is only read.
        place = ("-c", f"safe.directory={self.path.resolve()}", "-C", str(self.path)) if there else ()
        try:
            line = ["git", *_SAFE, *place, *words]
            done = run(line, stdin=stdin, timeout=_READ_SECONDS, environment=environment(""), check=check)
        except ProgramFailedError as problem:
            raise FeedError(
                f"{self.path}: {_last_line(problem.output)}", hint="git fsck tells what is broken"
            ) from None
        return done.stdout if done.status == 0 else b""

    def _fetch(self, words: Sequence[str], source: str, seconds: float, ca_file: str) -> None:
        place = () if words[0] == "-C" else ("-C", str(self.path))
        line = ["prlimit", f"--fsize={MAX_PACK}", "git", *_SAFE, *_SLOW, *place, *words]
        try:
            run(line, timeout=seconds, environment=environment(ca_file))
        except ProgramFailedError as problem:
            why = (
                "it took too long"
                if problem.status == -1
                else _last_line(problem.output).replace(source, shown(source))
            )
            raise FeedError(
                f"{shown(source) if '://' in source else source}: {why}", hint=_hint(problem.output)
            ) from None


def _hint(output: str) -> str:
    if "dubious ownership" in output:
        return "the checkout must belong to the account that the server runs as, since git runs what its configuration says"
    if "non-fast-forward" in output or "Not possible to fast-forward" in output or "rejected" in output:
        return (
            "its history was rewritten; look why, and make the checkout anew (the server's own copy: remove its folder)"
        )
    return "git fetch, run by hand as the server's account, tells more"


def _last_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    chosen = next(
        (line for line in reversed(lines) if line.startswith(("fatal:", "error:"))), lines[-1] if lines else ""
    )
    return "".join(letter if letter.isprintable() else " " for letter in chosen)[:300] or "git failed"
