"""`kmend doctor`: what somebody who helps needs to see of a host, in one archive, without secrets; shown before it is written.

Nothing leaves the host by itself: the archive is a file, and what it holds can be read first. Each part is bounded, a part that
cannot be had is replaced by the reason, and what was taken out is listed in `redactions.json`.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kmend import __version__
from kmend.agent import configcommand, examination, inventory, kernellog, redaction, status, verification
from kmend.agent.configfiles import load_config
from kmend.agent.livekernel import read_kernel_file
from kmend.agent.redaction import Redactor
from kmend.agent.session import Session
from kmend.core import durable
from kmend.core.document import plain
from kmend.core.errors import KmendError, SystemProblemError, UsageError
from kmend.core.process import run

MAX_PART_BYTES = 256 * 1024
MAX_BUNDLE_BYTES = 4 * 1024 * 1024
"""Of all parts together, before they are packed."""
MAX_READ_BYTES = 8 * 1024 * 1024
MAX_HISTORY = 500
MAX_TREE = 3000
MAX_LOG_LINES = 400
_JOURNAL = ("journalctl", "--no-pager", "--output=short-iso", "--lines=500", "--unit=kmend-*")
_JOURNAL_SECONDS = 20.0
_LOG_WORDS = (
    "livepatch",
    "kmend",
    "module verification",
    "lockdown",
    "BUG:",
    "Oops",
    "WARNING:",
    "ftrace",
    "tainted",
    "klp",
)
_CMDLINE = frozenset(
    {
        "kmend",
        "module.sig_enforce",
        "lockdown",
        "lsm",
        "security",
        "selinux",
        "ima_policy",
        "ima_appraise",
        "nolivepatch",
        "quiet",
        "ro",
    }
)
"""Parameters of the kernel that are shown with their values; of all others only the name is."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the archive.

    Attributes:
        redacted: kind to how many were taken out.
        cut: bytes that were left out at its beginning, 0 for none.
    """

    name: str
    text: str
    redacted: Mapping[str, int]
    cut: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A part, for the preview."""

    name: str
    bytes: int
    redacted: dict[str, int]
    cut: int


@dataclass(frozen=True, slots=True)
class Bundle:
    """`kmend doctor --json`; only ever gains members.

    Attributes:
        written: the archive, empty if none was written.
    """

    parts: tuple[Listed, ...]
    written: str
    format: str = "kmend-doctor/1"


def collect(session: Session, environment: Mapping[str, str], *, keep_host: bool) -> tuple[Part, ...]:
    """Every part, cleaned and bounded; changes nothing.

    Args:
        environment: of this process; what in it looks like a secret is taken out everywhere.
        keep_host: leave the host's own names in.
    """
    redactor = Redactor(secrets(session, environment), () if keep_host else hosts(session))
    parts: list[Part] = []
    total = 0
    for name, read in _sources(session, environment).items():
        try:
            text = read()
        except (KmendError, OSError, ValueError) as problem:
            told = problem.message if isinstance(problem, KmendError) else str(problem)
            text = _json({"cannot be had": told}) if name.endswith(".json") else f"cannot be had: {told}\n"
        # Cleaned before it is cut, so that no half of a secret is left over.
        cleaned = redactor.clean(text)
        content = cleaned.text.encode(errors="replace")
        room = max(0, min(MAX_PART_BYTES, MAX_BUNDLE_BYTES - total))
        cut = max(0, len(content) - room)
        content = content[cut:]  # the end is what happened last
        total += len(content)
        parts.append(Part(name, content.decode(errors="replace"), cleaned.counts, cut))
    listing = {part.name: {"taken_out": dict(part.redacted), "bytes_cut": part.cut} for part in parts}
    return (*parts, Part("redactions.json", _json(listing), {}, 0))


def bundle(parts: tuple[Part, ...], written: str) -> Bundle:
    """What is told of an archive."""
    return Bundle(
        tuple(Listed(part.name, len(part.text.encode()), dict(part.redacted), part.cut) for part in parts), written
    )


def text(document: Bundle) -> str:
    """The preview: a row a part, and what was taken out of it."""
    rows = []
    for part in document.parts:
        taken = ", ".join(f"{count} of {kind}" for kind, count in part.redacted.items())
        notes = [f"taken out: {taken}"] if taken else []
        notes += [f"{part.cut} bytes left out"] if part.cut else []
        rows.append(f"{part.bytes:>8}  {part.name:<24} {'; '.join(notes)}".rstrip())
    if document.written:
        rows.append(f"written: {document.written}; nothing was sent anywhere")
    else:
        rows.append("nothing was written or sent; kmend doctor --show NAME shows a part, -o FILE.tar.gz writes them")
    return "\n".join(rows)


def show_part(parts: tuple[Part, ...], name: str) -> str:
    """One part as it would be written.

    Raises:
        UsageError: there is none of that name.
    """
    for part in parts:
        if part.name == name:
            return part.text.rstrip("\n")
    raise UsageError(f"there is no part {name[:60]!r}", hint=f"there are {', '.join(part.name for part in parts)}")


def write(parts: tuple[Part, ...], target: Path, now: int) -> None:
    """Write the archive, for its owner alone; one that is there already is left alone.

    Raises:
        SystemProblemError: it cannot be written.
        UsageError: the file exists.
    """
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=now) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for part in parts:
            content = part.text.encode()
            member = tarfile.TarInfo(f"kmend-doctor/{part.name}")
            member.size, member.mtime, member.mode = len(content), now, 0o600
            archive.addfile(member, io.BytesIO(content))
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{target} exists already", hint="name another file, or remove it") from None
    except OSError as problem:
        raise SystemProblemError(f"cannot write {target}: {problem.strerror}") from problem
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(packed.getvalue())
            out.flush()
            os.fsync(out.fileno())
    except OSError as problem:
        target.unlink(missing_ok=True)
        raise SystemProblemError(f"cannot write {target}: {problem.strerror}", hint="free some space") from problem


def secrets(session: Session, environment: Mapping[str, str]) -> set[str]:
    """Every secret that this host is known to hold: of the configuration, of the files that it names, and of the environment."""
    config, root = session.config, session.paths.root
    found = redaction.of_url(config.repository.url) | redaction.of_url(config.network.proxy)
    found |= redaction.of_environment(environment)
    if config.network.proxy_credentials:
        path = root / Path(config.network.proxy_credentials).relative_to("/")
        login = read_kernel_file(path)
        found |= {login, login.partition(":")[2]}
    return {secret.strip() for secret in found if secret.strip()}


def hosts(session: Session) -> set[str]:
    """The names of this host, long and short, and its machine ID."""
    names = {read_kernel_file(session.paths.root / "etc/hostname"), session.kernel.setting("hostname")}
    names |= {name.partition(".")[0] for name in names} | {read_kernel_file(session.paths.root / "etc/machine-id")}
    return names - {"", "localhost", "(none)"}


def _sources(session: Session, environment: Mapping[str, str]) -> dict[str, Callable[[], str]]:
    """Name to what reads it."""
    state, kernel_files = session.paths.state, session.paths

    def stored(name: str) -> Callable[[], str]:
        path = state / name
        return lambda: (
            durable.read_bounded(path, max_bytes=MAX_READ_BYTES).decode(errors="replace") if path.exists() else "null\n"
        )

    def history() -> str:
        return _json(plain(session.history.records()[-MAX_HISTORY:]))

    return {
        "about.json": lambda: _about(session, environment),
        "status.json": lambda: _json(plain(status.describe(session, repository=session.config.repository.url))),
        "config.json": lambda: _json(plain(configcommand.configuration(load_config(session.paths.config)))),
        "preflight.json": lambda: _json(plain(examination.examine(session, None, signed=True))),
        "patches.json": lambda: _json(plain(inventory.patches(session))),
        "verify.json": lambda: _json(plain(verification.verify(session))),
        "history.json": history,
        "quarantine.json": lambda: _json(plain(session.quarantine.entries())),
        "intent.json": stored("intent.json"),
        "soaked.json": stored("soaked.json"),
        "last_check.json": stored("last_check.json"),
        "state-files.txt": lambda: _tree(state),
        "service-files.txt": lambda: _tree(kernel_files.fetched),
        "sysfs-livepatch.txt": lambda: _livepatches(kernel_files.sys / "kernel/livepatch"),
        "modules.txt": lambda: read_kernel_file(kernel_files.proc / "modules") + "\n",
        "command-line.txt": lambda: _command_line(read_kernel_file(kernel_files.proc / "cmdline")),
        "kernel-log.txt": lambda: _log(session),
        "journal.txt": lambda: journal(),
    }


def _about(session: Session, environment: Mapping[str, str]) -> str:
    proxies = sorted(name for name, value in environment.items() if name.lower().endswith("_proxy") and value)
    release = read_kernel_file(session.paths.root / "etc/os-release").splitlines()
    wanted = [line for line in release if line.startswith(("ID=", "VERSION_ID=", "PRETTY_NAME="))]
    return _json(
        {
            "kmend": __version__,
            "kernel": plain(session.running),
            "system": wanted,
            "uptime_seconds": int(session.clock.uptime()),
            "proxy_variables_set": proxies,
        }
    )


def _tree(folder: Path) -> str:
    rows = []
    for path in sorted(itertools.islice(folder.rglob("*"), MAX_TREE)):
        try:
            found = path.lstat()
        except OSError:
            continue
        rows.append(
            f"{found.st_mode & 0o7777:04o} {found.st_size:>10} {int(found.st_mtime)} {_printable(str(path.relative_to(folder)))}"
        )
    return "\n".join(rows) + "\n"


def _printable(name: str) -> str:
    """A file's name, which the service's account may have chosen, on one line and without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def _livepatches(folder: Path) -> str:
    rows = []
    for path in sorted(folder.rglob("*"))[:MAX_TREE]:
        value = read_kernel_file(path) if path.is_file() and path.name != "signal" else ""
        rows.append(f"{path.relative_to(folder)}{f' = {value}' if value else ''}")
    return "\n".join(rows) + "\n"


def _command_line(words: str) -> str:
    """Names of the parameters; values only of those that are ours to know."""
    shown = []
    for word in words.split():
        name, equals, _ = word.partition("=")
        shown.append(word if name in _CMDLINE or not equals else f"{name}={redaction.MARK}")
    return " ".join(shown) + "\n"


def _log(session: Session) -> str:
    records = kernellog.read_after(session.paths.log, -1)
    lines = [record.text for record in records if any(word in record.text for word in _LOG_WORDS)]
    return "\n".join(lines[-MAX_LOG_LINES:]) + "\n"


def journal() -> str:
    """What kmend's units have said, as far as this process may read it."""
    return run(_JOURNAL, timeout=_JOURNAL_SECONDS, check=False).text


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
