"""Lays packages beside a repository, with a script that installs one and points it at that repository.

The script holds the digests of everything that it fetches, so whoever checks the script's digest has checked all of it.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from packager.definition import PACKAGING
from packager.errors import PackagingError

FOLDER = "install"
SCRIPT = "install.sh"
PUBLISHED_SCRIPT = "kmend-install.sh"


def sha256_of(path: Path) -> str:
    """The digest of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def offer(repository: Path, url: str, root: Path, packages: Sequence[Path]) -> str:
    """Fill `repository/install`.

    Args:
        url: where hosts find `repository`.
        root: the publisher's trust root.

    Returns:
        The one line that installs kmend on a host.

    Raises:
        PackagingError: a file is missing, or the URL cannot stand in a script.
    """
    if not re.fullmatch(r"https?://[A-Za-z0-9.\-_~:/@\[\]%]+", url):
        raise PackagingError(f"{url!r} is not an http or https URL without blanks, quotes and queries")
    checked = _by_format(packages)
    for path in (repository, root):
        if not path.exists():
            raise PackagingError(f"{path} does not exist")
    folder = repository / FOLDER
    folder.mkdir(exist_ok=True)
    values = {"URL": url.rstrip("/"), "ROOT_SHA256": sha256_of(root)}
    text = _script({**values, **_digests(checked)})
    for path, target in [(root, "root.json"), *((path, path.name) for path in packages)]:
        shutil.copyfile(path, folder / target)
        (folder / target).chmod(0o644)
    script = folder / SCRIPT
    script.write_text(text, encoding="utf-8")
    script.chmod(0o644)
    return one_line(values["URL"], sha256_of(script))


def make_script(output: Path, packages: Sequence[Path]) -> Path:
    """Write the script that installs these packages from any repository that has them as targets.

    It is published with them (`kmend-factory publish --agent-package`); a server then prints the line that calls it.

    Args:
        output: folder for it.

    Raises:
        PackagingError: a file is missing, or of another kind.
    """
    path = output / PUBLISHED_SCRIPT
    path.write_text(_script({"URL": "", "ROOT_SHA256": "", **_digests(_by_format(packages))}), encoding="utf-8")
    path.chmod(0o644)
    return path


def _by_format(packages: Sequence[Path]) -> dict[str, Path]:
    by_format = {path.suffix.lstrip("."): path for path in packages}
    if not set(by_format) <= {"deb", "rpm"} or len(by_format) != len(packages):
        raise PackagingError("give one deb, one rpm, or one of each")
    for path in packages:
        if not path.exists():
            raise PackagingError(f"{path} does not exist")
    return by_format


def _digests(by_format: dict[str, Path]) -> dict[str, str]:
    values = {}
    for name in ("deb", "rpm"):
        package = by_format.get(name)
        values[name.upper()] = package.name if package is not None else ""
        values[f"{name.upper()}_SHA256"] = sha256_of(package) if package is not None else ""
    return values


def _script(values: dict[str, str]) -> str:
    text = (PACKAGING / SCRIPT).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def one_line(url: str, digest: str) -> str:
    """What a person types on a host, as root; a bare Debian has neither curl nor wget, but what needs kmend's Python has that."""
    return (
        f"u={url}/{FOLDER}/{SCRIPT} f=kmend-install.sh; "
        "{ curl -fsSLo $f $u || wget -qO $f $u || "
        "python3 -c 'import sys, urllib.request as r; r.urlretrieve(*sys.argv[1:])' $u $f; } && "
        f"echo '{digest}  kmend-install.sh' | sha256sum -c --quiet && sh kmend-install.sh"
    )
