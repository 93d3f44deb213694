"""Reading the configuration: `agent.toml`, then `agent.toml.d/*.toml` in the order of their names, later members winning.

Every problem is found in one go, each with its file and line.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kmend.agent.config import Config
from kmend.agent.configlines import error_line, lines_of
from kmend.agent.errors import ConfigError
from kmend.core import durable
from kmend.core.document import from_plain
from kmend.core.errors import MalformedError, SystemProblemError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_CONFIG_BYTES = 256 * 1024
MAX_DROP_INS = 100
MAX_PROBLEMS = 50
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something is written.

    Attributes:
        file: relative to the configuration's folder.
        line: from 1 on; 0 stands for the whole file.
    """

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file} line {self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be used."""

    origin: Origin
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was read.

    Attributes:
        config: in force, if there are no problems; what is wrong is left at its default.
        origins: section and member, to where the value comes from; defaults are not in it.
        files: those that were read, in their order.
    """

    config: Config
    origins: Mapping[tuple[str, str], Origin]
    files: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Member:
    value: object
    origin: Origin


def read_config(folder: Path) -> Config:
    """Read the configuration; an absent one is all defaults.

    Raises:
        ConfigError: a file cannot be read or holds what it must not; the message names every file, line and member.
    """
    loaded = load_config(folder)
    if not loaded.problems:
        return loaded.config
    many = len(loaded.problems) > 1
    told = "".join(f"\n  {problem}" for problem in loaded.problems) if many else f" {loaded.problems[0]}"
    hint = "kmend config check tells when it is right" if many else loaded.problems[0].hint
    raise ConfigError(f"the configuration in {folder} is not usable:{told}", hint=hint)


def load_config(folder: Path) -> Loaded:
    """Like `read_config`, with what is wrong as a value."""
    problems: list[Problem] = []
    files: list[str] = []
    given: dict[str, dict[str, _Member]] = {}
    for path in _sources(folder, problems):
        name = str(path.relative_to(folder))
        files.append(name)
        _take_file(path, name, given, problems)
    sections: dict[str, object] = {}
    for name, kind in _sections().items():
        sections[name] = _section(kind, given.get(name, {}), problems)
    origins = {(section, member): item.origin for section, members in given.items() for member, item in members.items()}
    # Every part has been checked by itself; what is left is put together from values of the right type.
    config = dataclasses.replace(Config(), **sections)  # type: ignore[arg-type]
    order = {name: number for number, name in enumerate(files)}
    ordered = sorted(problems, key=lambda item: (order.get(item.origin.file, -1), item.origin.line))
    return Loaded(config, origins, tuple(files), tuple(ordered[:MAX_PROBLEMS]))


def _sources(folder: Path, problems: list[Problem]) -> list[Path]:
    try:
        drop_ins = sorted((folder / "agent.toml.d").glob("*.toml"))
        main = folder / "agent.toml"
        present = main.exists() or main.is_symlink()
    except OSError as problem:
        problems.append(Problem(Origin(str(folder), 0), f"cannot be read: {problem.strerror}"))
        return []
    if len(drop_ins) > MAX_DROP_INS:
        message = f"there are {len(drop_ins)} files; at most {MAX_DROP_INS} are read"
        problems.append(Problem(Origin("agent.toml.d", 0), message))
    return ([main] if present else []) + drop_ins[:MAX_DROP_INS]


def _take_file(path: Path, name: str, given: dict[str, dict[str, _Member]], problems: list[Problem]) -> None:
    try:
        text = durable.read_bounded(path, max_bytes=MAX_CONFIG_BYTES).decode()
    except SystemProblemError as problem:
        problems.append(Problem(Origin(name, 0), problem.message, problem.hint))
        return
    except UnicodeDecodeError as problem:
        line = problem.object[: problem.start].count(b"\n") + 1
        problems.append(Problem(Origin(name, line), "it is not valid TOML: this is not UTF-8"))
        return
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        line, said = error_line(problem, text)
        problems.append(Problem(Origin(name, line), f"it is not valid TOML: {said}"))
        return
    except (ValueError, RecursionError) as problem:
        problems.append(Problem(Origin(name, 0), f"it is not valid TOML: {type(problem).__name__}"))
        return
    lines = lines_of(text)
    for section, members in tree.items():
        here = Origin(name, lines.get((section,), 0))
        wrong = _unknown_section(section, members)
        if wrong is not None:
            problems.append(Problem(here, *wrong))
            continue
        for member, value in members.items():
            origin = Origin(name, lines.get((section, member), here.line))
            wrong = _unknown_member(section, member)
            if wrong is not None:
                problems.append(Problem(origin, *wrong))
            else:
                given.setdefault(section, {})[member] = _Member(value, origin)


def _section(kind: Any, given: Mapping[str, _Member], problems: list[Problem]) -> object:
    """One section from its members, each that does not go together with the others being a problem.

    Members are taken in as long as the section accepts them; that is tried until no more go in, since one may need another.
    """
    taken: dict[str, object] = {}
    left = dict(given)
    while True:
        refused: dict[str, str] = {}
        for name, member in left.items():
            try:
                from_plain(kind, {**taken, name: member.value})
            except MalformedError as problem:
                refused[name] = problem.message
            else:
                taken[name] = member.value
        if len(refused) == len(left):
            break
        left = {name: left[name] for name in refused}
    for name, message in refused.items():
        plain = message.removeprefix(f"{kind.__name__}: ").removeprefix(f"{kind.__name__}.")
        problems.append(Problem(given[name].origin, plain, "see docs/agent.md"))
    return from_plain(kind, taken)


def _unknown_section(section: str, members: object) -> tuple[str, str] | None:
    known = _sections()
    if section not in known:
        home = _home_of(section)
        if not isinstance(members, dict) and home:
            return f"{_shown(section)} stands in no section", f"it belongs into [{home}]"
        return f"there is no section [{_shown(section)}]", _nearest(section, known)
    if not isinstance(members, dict):
        return f"{section} must be a section", f"write [{section}] on a line of its own, and its members below"
    return None


def _unknown_member(section: str, member: str) -> tuple[str, str] | None:
    known = [item.name for item in dataclasses.fields(_sections()[section])]
    if member in known:
        return None
    home = _home_of(member)
    hint = f"it belongs into [{home}]" if home else _nearest(member, known)
    return f"[{section}] has no member {_shown(member)}", hint


def _nearest(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"


def _home_of(member: str) -> str:
    """The only section that knows a member; empty if none does, or several do."""
    homes = [name for name, kind in _sections().items() if member in {item.name for item in dataclasses.fields(kind)}]
    return homes[0] if len(homes) == 1 else ""


def _shown(name: str) -> str:
    clean = "".join(letter if letter.isprintable() else "?" for letter in name)
    return clean if len(clean) <= _MAX_NAME else clean[:_MAX_NAME] + "..."


def _sections() -> dict[str, Any]:
    return {item.name: type(getattr(Config(), item.name)) for item in dataclasses.fields(Config)}
