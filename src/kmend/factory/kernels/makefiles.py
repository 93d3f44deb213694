"""What a kernel's build was told to compile: the source's own Makefiles, evaluated by GNU make with the distro's configuration.

kbuild calls make anew in every folder, and compiles. Here one make reads the Makefiles of many folders one after the other, and
only prints what they ask for; folders below those are read by the next. What is read is what `scripts/Makefile.build` reads of a
folder, and what becomes of it is what `scripts/Makefile.lib` makes of it (6.1).

Nothing of the tree is run: no rule is asked for, and make's shell is `false`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from posixpath import normpath

from kmend.core.errors import MalformedError
from kmend.core.process import ProgramFailedError, run
from kmend.core.scratch import scratch_folder

TOP = "."
ARCHITECTURE = "x86"
MAX_FOLDERS = 20_000
MAX_DEPTH = 40
_TIMEOUT = 300.0
_FOLDER = re.compile(r"\w[\w.+,@-]*(?:/\w[\w.+,@-]*)*", re.ASCII)
_NAMES = re.compile(r"(Makefile|Kbuild).*|.*\.(mk|include)")
LINKING = "scripts/link-vmlinux.sh"
"""Compiles files of its own beside what the Makefiles ask for (6.1: `init/version-timestamp.c`)."""
_MISSING = re.compile(r"^([^:\n]+):\d+: [^\n]*: No such file or directory$", re.MULTILINE)
"""What make says at its end of an `include` that it has passed over."""
_OBJECT = re.compile(r"(?<![\w./-])((?:[\w-]+/)+[\w.-]+\.o)\b")
_MARK = "kmend-told"
_PREPARE = "leave --quick out: the kernel is prepared then, and its debug information says it"

DRIVER = r"""
SHELL := /bin/false
srctree := .
objtree := .
ARCH := @ARCHITECTURE@
SRCARCH := @ARCHITECTURE@
KBUILD_BUILTIN := 1
KBUILD_MODULES := 1
.PHONY: kmend-nothing
kmend-nothing: ;
.DEFAULT_GOAL := kmend-nothing
@CONFIG@
include scripts/Kbuild.include

# The top Makefile's own, before and after it includes the architecture's.
core-y :=
drivers-y :=
libs-y := lib/
include arch/$(SRCARCH)/Makefile
ARCH_CORE := $(core-y)
ARCH_LIB := $(filter %/,$(libs-y))
ARCH_DRIVERS := $(drivers-y) $(drivers-m)
$(info @MARK@ libraries $(ARCH_LIB))

kmend-parts = $(strip $(foreach kmend-suffix,$2,$($(1:.o=)$(kmend-suffix))))
kmend-real = $(if $(call kmend-parts,$1,$2 -),$(call kmend-parts,$1,$2),$1)
kmend-tell = $(info @MARK@ $1 $(strip $2))

define kmend-read
obj-y :=
obj-m :=
lib-y :=
lib-m :=
always-y :=
always-m :=
extra-y :=
targets :=
subdir-y :=
subdir-m :=
obj := $1
src := $1
include $(or $(wildcard $1/Kbuild),$(wildcard $1/Makefile),$(error $1 has no Makefile))
$$(call kmend-tell,folder,$1)
$$(foreach kmend-item,$$(sort $$(filter-out %/,$$(obj-y))),\
	$$(call kmend-tell,built-in,$$(kmend-item) $$(call kmend-real,$$(kmend-item),-objs -y)))
$$(foreach kmend-item,$$(sort $$(filter-out %/ $$(obj-y),$$(obj-m))),\
	$$(call kmend-tell,module,$$(kmend-item) $$(call kmend-real,$$(kmend-item),-objs -y -m)))
$$(call kmend-tell,library,$$(sort $$(filter-out $$(obj-y),$$(lib-y) $$(lib-m))))
$$(call kmend-tell,below-built-in,$$(sort $$(filter %/,$$(obj-y))))
$$(call kmend-tell,below-modules,$$(sort $$(filter %/,$$(obj-m))))
$$(call kmend-tell,below-apart,$$(sort $$(subdir-y) $$(subdir-m)))
$$(call kmend-tell,apart,$$(sort $$(targets) $$(extra-y) $$(always-y) $$(always-m)))
endef

kmend-new :=
kmend-known := $(subst %,\%,$(.VARIABLES)) kmend-known
@FOLDERS@
$(info @MARK@ end)
"""
"""The makefile that is given to make. `kmend-real` is `real-search` of `scripts/Makefile.lib`: the parts of a composite object,
which an object is as soon as any of its lists names something, be it one that is off (`foo-`)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the Makefile of one folder asks for; names are relative to the folder.

    Attributes:
        built_in: object that goes into vmlinux -> the objects it is made of, itself if it is none of several.
        modules: the same of those that become modules.
        library: objects of the folder's `lib.a`.
        apart: whatever else is made, by the folder's own rules, or as a target that make is told of.
        below_built_in: folders to descend into for vmlinux and for modules.
        below_modules: folders to descend into for modules alone.
        below_apart: folders to descend into for something else.
    """

    built_in: Mapping[str, tuple[str, ...]]
    modules: Mapping[str, tuple[str, ...]]
    library: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    below_built_in: tuple[str, ...] = ()
    below_modules: tuple[str, ...] = ()
    below_apart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What make says of some folders.

    Attributes:
        libraries: folders whose `lib.a` goes into vmlinux.
        whole: it came to the end; else it has stopped at a Makefile.
        lacking: folders with a makefile that includes another which is not there.
    """

    found: Mapping[str, Asked]
    libraries: tuple[str, ...]
    whole: bool
    lacking: frozenset[str] = frozenset()


class Way(enum.IntEnum):
    """How one comes to a folder; of several the highest counts."""

    APART = 0
    MODULES = 1
    BUILT_IN = 2


@dataclass(frozen=True, slots=True)
class Told:
    """All that the Makefiles ask for.

    Attributes:
        objects: object file, without `.o` and relative to the tree -> what holds it: `vmlinux` or module names.
        apart: what else is made, and held by nobody knows what, without `.o`, `.c` or `.S`: targets of a folder's own rules.
        modules: path of a module below the tree, `net/unix/unix_diag.ko`.
        unread: folders whose Makefiles cannot be evaluated; nothing is known of what is below them.
    """

    objects: dict[str, tuple[str, ...]]
    apart: frozenset[str]
    modules: frozenset[str]
    unread: frozenset[str]


_ONE_FOLDER = r"""
$(eval $(call kmend-read,@FOLDER@))
kmend-new := $(filter-out $(kmend-known),$(.VARIABLES))
$(foreach kmend-name,$(kmend-new),$(eval undefine $(kmend-name)))
"""
"""A folder's variables must not be seen by the next. `.VARIABLES` tells of all of them outside of a `foreach` alone."""


def is_makefile(path: str) -> bool:
    """Whether a file of the source tree is one that `evaluate` may read."""
    return path == LINKING or _NAMES.fullmatch(path.rpartition("/")[2]) is not None


def as_makefile(config: Mapping[str, str]) -> str:
    """A configuration as `include/config/auto.conf` has it: what is on, strings without their quotes (since 5.17)."""
    lines = []
    for name, value in sorted(config.items()):
        if value == "n" or not re.fullmatch(r"CONFIG_\w+", name):
            continue
        text = value
        if len(text) >= 2 and text[0] == text[-1] == '"':
            text = re.sub(r"\\(.)", r"\1", text[1:-1])
        escaped = text.replace("$", "$$").replace("#", "\\#").replace("\n", " ")
        lines.append(f"{name}={escaped}\n")
    return "".join(lines)


def evaluate(tree: Path, config: Mapping[str, str]) -> Told:
    """Evaluate the Makefiles of `tree`, which needs to hold nothing else.

    Raises:
        MalformedError: the tree's top has no `Kbuild` that leads everywhere (6.1 is the first that has), or they lead to more
            folders than a kernel has.
        ProgramFailedError: make does not end.
        SystemProblemError: make is not installed.
    """
    if not (tree / "Kbuild").is_file() or "ARCH_CORE" not in (tree / "Kbuild").read_text(errors="replace"):
        raise MalformedError(
            "the source's top folder has no Kbuild that names all others; Linux before 6.1 has not",
            hint=_PREPARE,
        )
    libraries: set[str] = set()

    with scratch_folder("makefiles") as scratch:
        driver_file, options = scratch / "driver.mk", as_makefile(config)

        def ask(folders: Sequence[str]) -> Answer:
            driver_file.write_text(_driver(options, folders))
            # Status 2 is an error in a Makefile, or a file that it wants to include and that is not there.
            done = run(
                ["make", "-rRk", "--no-print-directory", "-f", driver_file, "kmend-nothing"],
                cwd=tree,
                environment={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                timeout=_TIMEOUT,
                check=False,
            )
            told = done.stderr.decode(errors="replace")
            if done.status not in (0, 2):
                raise ProgramFailedError(f"make was ended: {told[-400:]}", output=told, status=done.status)
            answer = read(done.text)
            libraries.update(answer.libraries)
            lacking = frozenset(normpath(path).rpartition("/")[0] or TOP for path in _MISSING.findall(told))
            return replace(answer, lacking=lacking)

        found, unread = walk(ask)
    if TOP in unread:
        raise MalformedError("the source's top Makefiles cannot be evaluated", hint=_PREPARE)
    linking = tree / LINKING
    beside = _OBJECT.findall(linking.read_text(errors="replace")) if linking.is_file() else ()
    return gather(found, libraries, unread, beside)


def _driver(options: str, folders: Sequence[str]) -> str:
    each = "".join(_ONE_FOLDER.replace("@FOLDER@", folder) for folder in folders)
    parts = {"ARCHITECTURE": ARCHITECTURE, "CONFIG": options, "MARK": _MARK, "FOLDERS": each}
    return re.sub("@([A-Z]+)@", lambda match: parts[match[1]], DRIVER)


def read(output: str) -> Answer:
    """What make has printed. A folder after which it has stopped is not in it."""
    found: dict[str, Asked] = {}
    libraries: tuple[str, ...] = ()
    whole = False
    folder = ""
    lists: dict[str, tuple[str, ...]] = {}
    objects: dict[str, dict[str, tuple[str, ...]]] = {"built-in": {}, "module": {}}
    for line in output.splitlines():
        if not line.startswith(f"{_MARK} "):
            continue
        what, *words = line.split()[1:]
        if what == "libraries":
            libraries = tuple(_clean(words))
        elif what == "end":
            whole = True
        elif what == "folder":
            folder, lists, objects = words[0], {}, {"built-in": {}, "module": {}}
        elif what in objects:
            objects[what][words[0]] = tuple(words[1:])
        else:
            lists[what] = tuple(words)
            if what == "apart":
                found[folder] = Asked(
                    objects["built-in"],
                    objects["module"],
                    lists.get("library", ()),
                    lists["apart"],
                    *(tuple(_clean(lists.get(f"below-{way}", ()))) for way in ("built-in", "modules", "apart")),
                )
    return Answer(found, libraries, whole)


def walk(ask: Callable[[Sequence[str]], Answer]) -> tuple[dict[str, Asked], frozenset[str]]:
    """Every folder that is reached from the top, and those that cannot be read.

    Args:
        ask: reads some folders, in this order, and may stop at one that it cannot read.

    Raises:
        MalformedError: there is no end to them.
    """
    found: dict[str, Asked] = {}
    unread: set[str] = set()
    waiting = [TOP]
    for _ in range(MAX_DEPTH):
        if not waiting:
            return found, frozenset(unread)
        if len(found) + len(waiting) > MAX_FOLDERS:
            break
        answer = Answer({}, (), whole=False)
        while waiting and not answer.whole:
            answer = ask(waiting)
            if not answer.whole:
                # What has been passed over before is only told at the end: all are read again, but for the bad one.
                bad = next((folder for folder in waiting if folder not in answer.found), waiting[-1])
                unread.add(bad)
                waiting.remove(bad)
        if answer.whole:
            unread |= answer.lacking
            found.update({folder: asked for folder, asked in answer.found.items() if folder not in unread})
        below = {item for folder, asked in found.items() for item, _ in _below(folder, asked)}
        waiting = sorted(below - found.keys() - unread)
    raise MalformedError(
        f"the Makefiles lead into more than {len(found)} folders, {MAX_DEPTH} deep",
        hint="prepare the kernel instead: its debug information says what was compiled (without --quick)",
    )


def gather(
    found: Mapping[str, Asked], libraries: Iterable[str], unread: Iterable[str] = (), beside: Iterable[str] = ()
) -> Told:
    """What all folders together ask for.

    An object of a folder that is only visited for its modules, or for something apart, is held by neither: `Told.apart`.

    Args:
        found: what each folder asks for.
        libraries: folders whose `lib.a` goes into vmlinux.
        unread: see `Told`.
        beside: what else is compiled, relative to the tree.
    """
    libraries = frozenset(libraries)
    objects: dict[str, dict[str, None]] = {}
    apart = {_bare(path) for path in beside}
    modules: set[str] = set()

    def note(folder: str, name: str, holder: str | None) -> None:
        path = normpath(f"{folder}/{name}")
        if holder is None or not path.endswith(".o"):
            apart.add(_bare(path))
        else:
            objects.setdefault(_bare(path), {})[holder] = None

    for folder, way in _ways(found).items():
        asked = found[folder]
        for parts in asked.built_in.values():
            for part in parts:
                note(folder, part, "vmlinux" if way is Way.BUILT_IN else None)
        for name, parts in asked.modules.items():
            stem = name.removesuffix(".o")
            if way is not Way.APART:
                modules.add(normpath(f"{folder}/{stem}.ko"))
            for part in parts:
                note(folder, part, None if way is Way.APART else stem.rpartition("/")[2].replace("-", "_"))
        for name in asked.library:
            note(folder, name, "vmlinux" if folder in libraries else None)
        for name in asked.apart:
            note(folder, name, None)
    held = {path: tuple(sorted(holders)) for path, holders in sorted(objects.items())}
    return Told(held, frozenset(apart), frozenset(modules), frozenset(unread))


def _bare(path: str) -> str:
    return path[:-2] if path.endswith((".o", ".c", ".S")) else path


def _ways(found: Mapping[str, Asked]) -> dict[str, Way]:
    """How each folder is reached from the top."""
    ways = {TOP: Way.BUILT_IN} if TOP in found else {}
    waiting = list(ways)
    while waiting:
        folder = waiting.pop()
        for item, way in _below(folder, found[folder]):
            best = min(way, ways[folder])
            if item in found and best > ways.get(item, -1):
                ways[item] = best
                waiting.append(item)
    return ways


def _below(folder: str, asked: Asked) -> Iterator[tuple[str, Way]]:
    for names, way in (
        (asked.below_built_in, Way.BUILT_IN),
        (asked.below_modules, Way.MODULES),
        (asked.below_apart, Way.APART),
    ):
        for name in names:
            path = normpath(f"{folder}/{name}")
            if not path.startswith(".."):
                yield path, way


def _clean(words: Iterable[str]) -> Iterator[str]:
    """Names of folders that may stand in a makefile as they are."""
    for word in words:
        name = normpath(word)
        if _FOLDER.fullmatch(name.removeprefix("../")) or name == TOP:
            yield name
