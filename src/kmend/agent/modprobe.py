"""What modprobe's configuration bars from being loaded, and what the kernel's command line does. Pure.

`install NAME COMMAND` (modprobe.d(5)) runs a command instead of loading a module, also for one that is needed by another: with
`/bin/false` or `/bin/true` nothing is loaded. `blacklist` only keeps aliases from it; who asks by name gets the module. The
kernel itself refuses what `module_blacklist=` names, whoever asks (`blacklisted` in kernel/module/main.c, since 4.8). Lockdown
and signatures bar none of the distro's own modules.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

FOLDERS = ("etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d")
"""From the strongest on: a file takes the place of those of its name in later folders (libkmod-config.c, `conf_files_list`)."""
SUFFIXES = (".conf", ".alias")
_NOTHING = frozenset(
    {"true", "false", ":"} | {f"{folder}/{word}" for folder in ("/bin", "/usr/bin") for word in ("true", "false")}
)
_PATTERN = re.compile(r"[*?\[]")
_BRACKETS = re.compile(r"(\[[^\]]*\])")


@dataclass(frozen=True, slots=True)
class Install:
    """An `install` line.

    Attributes:
        pattern: of names, with `_`; may have wildcards.
        bars: its command loads nothing.
    """

    pattern: str
    bars: bool


def files(folders: Sequence[Mapping[str, str]]) -> tuple[str, ...]:
    """Which files count, in the order in which they are read.

    Args:
        folders: file name -> path, from the strongest folder on.
    """
    found: dict[str, str] = {}
    for folder in folders:
        for name, path in folder.items():
            if name.endswith(SUFFIXES) and not name.startswith("."):
                found.setdefault(name, path)
    return tuple(found[name] for name in sorted(found))


def installs(texts: Iterable[str]) -> tuple[Install, ...]:
    """The `install` lines of configuration files, in their order."""
    found = []
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            words = line.split(None, 2)
            if len(words) == 3 and words[0] == "install":
                found.append(Install(normalised(words[1]), words[2].strip() in _NOTHING))
    return tuple(found)


def normalised(name: str) -> str:
    """A name as the kernel has it: `-` is `_`, except in brackets (shared/util.c, `alias_normalize`)."""
    return "".join(part if part.startswith("[") else part.replace("-", "_") for part in _BRACKETS.split(name))


def barred(lines: Sequence[Install], refused: frozenset[str], names: Iterable[str]) -> tuple[str, ...]:
    """Modules that nothing loads by name, sorted.

    Args:
        lines: of the first that fits a module, the command is run (`kmod_module_get_install_commands`).
        refused: that the kernel refuses.
        names: modules that are on the disk. One that a line names in full counts without being there.
    """
    plain = {line.pattern for line in lines if not _PATTERN.search(line.pattern)}
    found = set(refused)
    for name in {*names, *plain}:
        first = next((line for line in lines if fnmatch.fnmatchcase(name, line.pattern)), None)
        if first is not None and first.bars:
            found.add(name)
    return tuple(sorted(found))


def refused(command_line: str) -> frozenset[str]:
    """Modules that the kernel was told to refuse; of several parameters the last counts, and names are not normalised."""
    try:
        words = shlex.split(command_line, posix=True)
    except ValueError:
        words = command_line.split()
    value = ""
    for word in words:
        if word == "--":
            break  # the rest is init's
        name, _, said = word.partition("=")
        if name.replace("-", "_") == "module_blacklist":
            value = said
    return frozenset(part for part in value.split(",") if part)
