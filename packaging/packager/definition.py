"""The one definition of the packages: packaging/kmend.toml, with the version of pyproject.toml."""

from __future__ import annotations

import datetime
import email.utils
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

from packager.errors import PackagingError

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"


@dataclass(frozen=True, slots=True)
class FileRule:
    """Which files of the checkout go where.

    Attributes:
        config: an administrator may change them; upgrades keep what was changed.
    """

    source: str
    target: str
    config: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """What is said differently in each format.

    Attributes:
        needs: packages without which it cannot be installed.
    """

    architecture: str
    needs: tuple[str, ...]
    recommends: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Definition:
    """Everything that the packages are made from.

    Attributes:
        folders: folder to its mode, in octal.
        epoch: the date of every file, in seconds since 1970-01-01 UTC.
        changelog: in Debian's format.
    """

    name: str
    version: str
    summary: str
    description: tuple[str, ...]
    maintainer: str
    homepage: str
    licence: str
    section: str
    deb: Format
    rpm: Format
    files: tuple[FileRule, ...]
    folders: tuple[tuple[str, int], ...]
    epoch: int
    changelog: str


def read(version: str | None = None) -> Definition:
    """Read the definition.

    Args:
        version: another than the checkout's.

    Raises:
        PackagingError: something is missing in it, or is not of the form it must have.
    """
    tree = tomllib.loads((PACKAGING / "kmend.toml").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    chosen = version or str(project["version"])
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*(~[a-z0-9]+)?", chosen):
        raise PackagingError(f"{chosen!r} is not a version that both formats take")
    changelog = (PACKAGING / "changelog").read_text(encoding="utf-8")
    try:
        return Definition(
            name=tree["name"],
            version=chosen,
            summary=tree["summary"],
            description=tuple(tree["description"].strip().splitlines()),
            maintainer=tree["maintainer"],
            homepage=tree["homepage"],
            licence=tree["licence"],
            section=tree["section"],
            deb=_format(tree["deb"], "depends"),
            rpm=_format(tree["rpm"], "requires"),
            files=tuple(FileRule(**rule) for rule in tree["files"]),
            folders=tuple((path, int(mode, 8)) for path, mode in tree["folders"].items()),
            epoch=_epoch(changelog),
            changelog=_of_version(changelog, tree["name"], chosen),
        )
    except (KeyError, TypeError) as problem:
        raise PackagingError(f"kmend.toml: {problem}") from None


def _format(tree: dict[str, Any], needs: str) -> Format:
    return Format(tree["architecture"], tuple(tree[needs]), tuple(tree["recommends"]))


def _epoch(changelog: str) -> int:
    """SOURCE_DATE_EPOCH, or else the date of the newest entry: the same sources give the same bytes either way."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None:
        if not given.isdigit():
            raise PackagingError(f"SOURCE_DATE_EPOCH is {given!r}, which is no number of seconds")
        return int(given)
    match = re.search(r"^ -- .*  (.+)$", changelog, re.MULTILINE)
    if match is None:
        raise PackagingError("the changelog has no date")
    return int(email.utils.parsedate_to_datetime(match[1]).astimezone(datetime.timezone.utc).timestamp())


def _of_version(changelog: str, name: str, version: str) -> str:
    """The changelog, whose newest entry is that of the version; a version of which it does not know yet gets one."""
    if changelog.startswith(f"{name} ({version}) "):
        return changelog
    signature = re.search(r"^ -- .*$", changelog, re.MULTILINE)
    assert signature is not None
    return f"{name} ({version}) unstable; urgency=low\n\n  * Made to try it.\n\n{signature[0]}\n\n{changelog}"
