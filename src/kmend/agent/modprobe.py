"""What modprobe's configuration bars from being loaded, and what the kernel's command line does. Pure.

`install NAME COMMAND` (modprobe.d(5)) runs a command instead of loading a module, also for one that is needed by another: with
`/bin/false` or `/bin/true` nothing is loaded. `blacklist` only keeps aliases from it; who asks by name gets the module. The
kernel itself refuses what `module_blacklist=` names, whoever asks (`blacklisted` in kernel/module/main.c, since 4.8). Lockdown
and signatures bar none of the distro's own modules.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

FOLDERS = ("etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d")
"""From the strongest on: a file takes the place of those of its name in later folders (libkmod-config.c, `conf_files_list`)."""
SUFFIXES = (".conf", ".alias")
MAX_LINES = 5000
MAX_PATTERNS = 100
_INSTALL = re.compile(r"[\t ]*install[\t ]+([^\t ]+)[\t ]+(.*)")
_ESCAPED = re.compile(r"\\(.?)", re.DOTALL)
_NOTHING = re.compile(r"((/usr)?/bin/)?(true|false)|:")
_COMMENT = re.compile(r"(^|[\t ])#.*")
_PATTERN = re.compile(r"[*?\[]")
_BRACKETS = re.compile(r"(\[[^\]]*\])")
_PARAMETER = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')


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
    """The `install` lines of configuration files, in their order.

    Read as kmod does (shared/util.c, `freadline_wrapped`): a backslash takes the end of its line away, of a comment's line too.
    The command is a shell's, and may end in a comment.
    """
    found = []
    for text in texts:
        joined = _ESCAPED.sub(lambda match: match[1].strip("\n"), text)
        for line in joined.split("\n"):
            match = _INSTALL.fullmatch(line)
            if match is not None:
                command = _COMMENT.sub("", match[2]).strip()
                found.append(Install(normalised(match[1]), _NOTHING.fullmatch(command) is not None))
    return tuple(found)


def normalised(name: str) -> str:
    """A name as the kernel has it: `-` is `_`, except in brackets (shared/util.c, `alias_normalize`)."""
    parts = _BRACKETS.split(name)
    # fnmatch(3) has `^` for `!` too.
    return "".join(part.replace("[^", "[!", 1) if part.startswith("[") else part.replace("-", "_") for part in parts)


def barred(lines: Sequence[Install], refused: frozenset[str], names: Iterable[str]) -> tuple[str, ...]:
    """Modules that nothing loads by name, sorted.

    Args:
        lines: of the first that fits a module, the command is run (`kmod_module_get_install_commands`). Of more lines or
            patterns than anybody writes, none counts.
        refused: that the kernel refuses.
        names: modules that are on the disk. One that a line names in full counts without being there.
    """
    plain: dict[str, tuple[int, bool]] = {}
    patterns: list[tuple[int, Install]] = []
    for place, line in enumerate(lines):
        if _PATTERN.search(line.pattern):
            patterns.append((place, line))
        else:
            plain.setdefault(line.pattern, (place, line.bars))
    if len(lines) > MAX_LINES or len(patterns) > MAX_PATTERNS:
        return tuple(sorted(refused))
    found = set(refused)
    for name in {*names, *plain}:
        own, bars = plain.get(name, (len(lines), False))
        before = (line for place, line in patterns if place < own and fnmatch.fnmatchcase(name, line.pattern))
        first = next(before, None)
        if bars if first is None else first.bars:
            found.add(name)
    return tuple(sorted(found))


def refused(command_line: str) -> frozenset[str]:
    """Modules that the kernel was told to refuse; of several parameters the last counts, and names are not normalised.

    Only `"` quotes (lib/cmdline.c, `next_arg`).
    """
    value = ""
    for quoted in _PARAMETER.findall(command_line):
        word = quoted.replace('"', "")
        if word == "--":
            break  # the rest is init's
        name, _, said = word.partition("=")
        if name.replace("-", "_") == "module_blacklist":
            value = said
    return frozenset(part for part in value.split(",") if part)
