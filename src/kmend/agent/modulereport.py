"""What this host says of its modules, by procfs, sysfs, modprobe's configuration and the disk; told no oftener than needed.

What is not known is left out, which never makes a CVE look closed: a configuration file that cannot be read bars nothing, and a
list that is not there takes nothing away. docs/decisions/0030-modules-of-a-host.md.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from kmend.agent import kernelpackages, modprobe, moduletree, statefile
from kmend.agent.livekernel import View, level_of, read_kernel_file
from kmend.agent.paths import Paths
from kmend.agent.session import Session
from kmend.core.document import encode
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.wire import MAX_ABSENT, MAX_BARRED, MAX_MODULE_NAME, MAX_TEXT, ModuleReport

AGAIN_SECONDS = 6 * 3600
"""So long a change of modules that nothing turns on is kept back."""
MAX_BYTES = 32 * 1024
_LISTS = ("modules.order", "modules.builtin", "modules.dep")
_MAX_LIST_BYTES = 8 * 1024 * 1024
_MAX_CONFIG_BYTES = 4 * 1024 * 1024
"""Of all files together."""
_MAX_CONFIG_FILES = 500
_MAX_ENTRIES = 5000
_MAX_STATUS_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Told:
    """What the server is told, and since when.

    Attributes:
        uptime: when it was seen, in seconds since the boot.
    """

    boot_id: str
    uptime: int
    report: ModuleReport
    format: str = "kmend-modules/1"


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What the disk and the command line say; `kmend.core.wire.ModuleReport` has the meanings."""

    barred: tuple[str, ...]
    absent: tuple[str, ...]
    installed: str


def report(session: Session) -> ModuleReport | None:
    """What holds now, or was told not long ago and differs in nothing that matters; None if this host cannot tell."""
    seen = look(session)
    if seen is None:
        return None
    path = session.paths.fetched / "modules.json"
    before = statefile.load(path, Told)
    watched = frozenset(
        target.name for item in session.store.manifests(session.running.build_id) for target in item.objects
    )
    told = settle(before, seen, watched, session.boot_id, int(session.clock.uptime()))
    if told != before:
        with contextlib.suppress(SystemProblemError):  # then it may be told sooner again than it has to be
            statefile.save(path, told)
    return told.report


def settle(before: Told | None, seen: ModuleReport, watched: frozenset[str], boot_id: str, uptime: int) -> Told:
    """What to tell. Pure.

    Modules that come and go, one a minute perhaps, must not make the host send its report at every check-in. So a change is told
    at once only if a verdict may turn on it: whatever is not the list of what is loaded, and of that list the modules that levels
    patch, that are barred, or that are not on the disk.

    Args:
        watched: modules that levels patch.
    """
    now = Told(boot_id, uptime, seen)
    if before is None or before.boot_id != boot_id or uptime < before.uptime:
        return now
    if before.report == seen:
        return before
    matters = watched.union(seen.barred, seen.absent)
    same = replace(before.report, loaded=()) == replace(seen, loaded=()) and not matters.intersection(
        set(before.report.loaded).symmetric_difference(seen.loaded)
    )
    return before if same and uptime - before.uptime < AGAIN_SECONDS else now


def look(session: Session) -> ModuleReport | None:
    """What holds now; None if the kernel does not show its modules."""
    paths = session.paths
    if not os.access(paths.proc / "modules", os.R_OK):
        return None
    view = session.kernel.view()
    if not view.modules and _text(paths.proc / "modules", 0) != "":
        return None  # that it cannot be read does not mean that none is loaded
    disk = _disk(paths, session.running.release, _marks(paths, session.running.release))
    return compose(view, disk, sealed=session.kernel.setting("modules_disabled") == "1")


def compose(view: View, disk: OnDisk, *, sealed: bool) -> ModuleReport | None:
    """The report, within its bounds; None if there are more modules than any kernel has. Pure.

    kmend's own modules are not in it: the state report tells of them.
    """
    loaded = tuple(sorted(module.name for module in view.modules if level_of(module.name) is None))
    current = view.current
    settled = current is not None and current.enabled and not current.transition
    unpatched = tuple(sorted(current.unapplied)) if current is not None and settled else ()
    try:
        found = ModuleReport(
            loaded,
            _named(disk.barred, MAX_BARRED),
            _named(disk.absent, MAX_ABSENT),
            sealed=sealed,
            unpatched=unpatched,
            installed=disk.installed[:MAX_TEXT] if disk.installed.isprintable() else "",
        )
    except MalformedError:
        return None
    without = replace(found, absent=())
    fitting = (item for item in (found, without, replace(without, barred=())) if len(encode(item)) <= MAX_BYTES)
    return next(fitting, None)


def _named(names: tuple[str, ...], most: int) -> tuple[str, ...]:
    return tuple(name for name in names if 0 < len(name) <= MAX_MODULE_NAME and name.isprintable())[:most]


def _sources(paths: Paths, release: str) -> list[Path]:
    root, folder = paths.root, paths.modules / release
    lists = [folder, *(folder / name for name in _LISTS), paths.modules, root / "boot", _status(paths)]
    return [*lists, *(root / name for name in modprobe.FOLDERS), *_configuration(paths)]


def _marks(paths: Paths, release: str) -> tuple[tuple[str, int, int, int], ...]:
    """What changes when one of the files does."""
    found = []
    for path in _sources(paths, release):
        try:
            state = path.stat()
        except OSError as problem:
            found.append((str(path), 0, 0, problem.errno or 0))
        else:
            found.append((str(path), state.st_ctime_ns, state.st_size, state.st_ino))
    return tuple(found)


@functools.lru_cache(maxsize=1)
def _disk(paths: Paths, release: str, marks: tuple[tuple[str, int, int, int], ...]) -> OnDisk:
    """Read anew only when a file has changed: the lists are long."""
    folder = paths.modules / release
    order, builtin, dep = (_text(folder / name, _MAX_LIST_BYTES) for name in _LISTS)
    absent: tuple[str, ...] = ()
    if order is not None and builtin is not None and dep is not None:
        missing = moduletree.missing(order, builtin, dep)
        # Many are left out where a distro packs its modules in several packages: then nothing is said of them.
        if len(missing) <= MAX_ABSENT:
            absent = tuple(name for name, path in missing.items() if not _is_there(folder, path))
    refused = modprobe.refused(read_kernel_file(paths.proc / "cmdline"))
    barred = modprobe.barred(_installs(paths), refused, moduletree.on_disk(dep or ""))
    return OnDisk(barred, absent, _installed(paths))


def _is_there(folder: Path, path: str) -> bool:
    """Whether a module's file is there although depmod has not found it, or whether that cannot be told."""
    for name in moduletree.files(path):
        try:
            (folder / name).lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass
        return True
    return False


def _installs(paths: Paths) -> tuple[modprobe.Install, ...]:
    """Of modprobe's configuration; none unless all of it can be read, since what is not seen may let in what the rest bars."""
    names = _configuration(paths)
    folders_seen = all(_entries(paths.root / name) is not None for name in modprobe.FOLDERS)
    if not folders_seen or len(names) > _MAX_CONFIG_FILES:
        return ()
    texts: list[str] = []
    for name in names:
        text = _text(name, _MAX_CONFIG_BYTES - sum(map(len, texts)))
        if text is None:
            return ()
        texts.append(text)
    return modprobe.installs(texts)


def _configuration(paths: Paths) -> tuple[Path, ...]:
    folders = [_entries(paths.root / name) or {} for name in modprobe.FOLDERS]
    return tuple(Path(name) for name in modprobe.files(folders))


def _entries(folder: Path) -> dict[str, str] | None:
    """Name -> path of what is in a folder; None if it cannot be read, or there is more in it than anybody keeps there."""
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: entry.path for entry in itertools.islice(entries, _MAX_ENTRIES + 1)}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError:
        return None
    return found if len(found) <= _MAX_ENTRIES else None


def _installed(paths: Paths) -> str:
    releases = {*(_entries(paths.modules) or {})}
    boot = _entries(paths.root / "boot") or {}
    releases |= {name.removeprefix("vmlinuz-") for name in boot if name.startswith("vmlinuz-")}
    return kernelpackages.newest(_lines(_status(paths), _MAX_STATUS_BYTES), releases)


def _status(paths: Paths) -> Path:
    return paths.root / "var/lib/dpkg/status"


def _lines(path: Path, most: int) -> Iterator[str]:
    """A large file line by line, so that it is never in memory as a whole; nothing if it cannot be read."""
    try:
        with open(path, "rb", opener=_open) as stream:
            left = most
            while left > 0 and (line := stream.readline(64 * 1024)):
                left -= len(line)
                yield line.decode(errors="replace")
    except OSError:
        return


def _text(path: Path, most: int) -> str | None:
    """A file as a whole, empty if it is not there or a folder, as kmod has it; None if it cannot be read, or is too large."""
    try:
        with open(path, "rb", opener=_open) as stream:
            content = stream.read(most + 1) or b""
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return ""
    except OSError:
        return None
    return content.decode(errors="replace") if len(content) <= most else None


def _open(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)  # a pipe that nobody writes must hold nothing up
