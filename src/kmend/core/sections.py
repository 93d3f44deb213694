"""A configuration of sections and members, read from TOML files into frozen dataclasses; later files win.

Every problem is found in one go, each with its file and line. A configuration is a dataclass whose fields are dataclasses too,
one for each section, all with defaults; a section's own `__post_init__` says what its members may be.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from kmend.core import durable
from kmend.core.document import from_plain
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.tomllines import Parse, error_line, lines_of

T = TypeVar("T")

MAX_CONFIG_BYTES = 256 * 1024
MAX_PROBLEMS = 50
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something is written.

    Attributes:
        file: as people know it.
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
class Source:
    """A file of the configuration, and what it is called in messages."""

    path: Path
    name: str


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """What was read.

    Attributes:
        config: in force, if there are no problems; what is wrong is left at its default.
        origins: section and member, to where the value comes from; defaults are not in it.
        files: those that were read, in their order.
    """

    config: T
    origins: Mapping[tuple[str, str], Origin]
    files: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Member:
    value: object
    origin: Origin


def load(default: T, sources: Sequence[Source], parse: Parse, *, described: str) -> Loaded[T]:
    """Read a configuration, with what is wrong as a value.

    Args:
        default: the configuration when nothing is configured; its type says which sections there are.
        sources: in their order.
        described: the page that describes the members, for hints.
    """
    reading = _Reading(default, parse, described)
    for source in sources:
        reading.take(source)
    return reading.result([source.name for source in sources])


class _Reading:
    def __init__(self, default: Any, parse: Parse, described: str) -> None:
        self._default = default
        self._sections = {item.name: type(getattr(default, item.name)) for item in dataclasses.fields(default)}
        self._parse = parse
        self._described = described
        self._given: dict[str, dict[str, _Member]] = {}
        self._problems: list[Problem] = []

    def take(self, source: Source) -> None:
        try:
            text = durable.read_bounded(source.path, max_bytes=MAX_CONFIG_BYTES).decode()
        except SystemProblemError as problem:
            self._problems.append(Problem(Origin(source.name, 0), problem.message, problem.hint))
            return
        except UnicodeDecodeError as problem:
            line = problem.object[: problem.start].count(b"\n") + 1
            self._problems.append(Problem(Origin(source.name, line), "it is not valid TOML: this is not UTF-8"))
            return
        try:
            tree = self._parse(text)
        except ValueError as problem:
            line, said = error_line(problem, text)
            self._problems.append(Problem(Origin(source.name, line), f"it is not valid TOML: {said}"))
            return
        except RecursionError:
            self._problems.append(Problem(Origin(source.name, 0), "it is not valid TOML: nested too deeply"))
            return
        lines = lines_of(text, self._parse)
        for section, members in tree.items():
            here = Origin(source.name, lines.get((section,), 0))
            wrong = self._unknown_section(section, members)
            if wrong is not None:
                self._problems.append(Problem(here, *wrong))
                continue
            for member, value in members.items():
                origin = Origin(source.name, lines.get((section, member), here.line))
                wrong = self._unknown_member(section, member)
                if wrong is not None:
                    self._problems.append(Problem(origin, *wrong))
                else:
                    self._given.setdefault(section, {})[member] = _Member(value, origin)

    def result(self, files: Sequence[str]) -> Loaded[Any]:
        sections = {name: self._section(kind, self._given.get(name, {})) for name, kind in self._sections.items()}
        origins = {
            (section, member): item.origin
            for section, members in self._given.items()
            for member, item in members.items()
        }
        # Every part has been checked by itself; what is left is put together from values of the right type.
        config = dataclasses.replace(self._default, **sections)
        order = {name: number for number, name in enumerate(files)}
        ordered = sorted(self._problems, key=lambda item: (order.get(item.origin.file, -1), item.origin.line))
        return Loaded(config, origins, tuple(files), tuple(ordered[:MAX_PROBLEMS]))

    def _section(self, kind: Any, given: Mapping[str, _Member]) -> object:
        """One section from its members, each that does not go together with the others being a problem.

        Members are taken in as long as the section accepts them; that is tried until no more go in, since one may need another,
        and two each other.
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
                pair = self._pair(kind, taken, left)
                if not pair:
                    break
                taken |= {name: left[name].value for name in pair}
                refused = {name: message for name, message in refused.items() if name not in pair}
            left = {name: left[name] for name in refused}
        for name, message in refused.items():
            plain = message.removeprefix(f"{kind.__name__}: ").removeprefix(f"{kind.__name__}.")
            self._problems.append(Problem(given[name].origin, plain, f"see {self._described}"))
        return from_plain(kind, taken)

    def _pair(self, kind: Any, taken: Mapping[str, object], left: Mapping[str, _Member]) -> tuple[str, ...]:
        """Two members that go in together, and neither without the other; empty if there are none."""
        for pair in itertools.combinations(left, 2):
            try:
                from_plain(kind, {**taken, **{name: left[name].value for name in pair}})
            except MalformedError:
                continue
            return pair
        return ()

    def _unknown_section(self, section: str, members: object) -> tuple[str, str] | None:
        if section not in self._sections:
            home = self._home_of(section)
            if not isinstance(members, dict) and home:
                return f"{_shown(section)} stands in no section", f"it belongs into [{home}]"
            return f"there is no section [{_shown(section)}]", _nearest(section, self._sections)
        if not isinstance(members, dict):
            return f"{section} must be a section", f"write [{section}] on a line of its own, and its members below"
        return None

    def _unknown_member(self, section: str, member: str) -> tuple[str, str] | None:
        known = [item.name for item in dataclasses.fields(self._sections[section])]
        if member in known:
            return None
        home = self._home_of(member)
        hint = f"it belongs into [{home}]" if home else _nearest(member, known)
        return f"[{section}] has no member {_shown(member)}", hint

    def _home_of(self, member: str) -> str:
        """The only section that knows a member; empty if none does, or several do."""
        homes = [
            name for name, kind in self._sections.items() if member in {item.name for item in dataclasses.fields(kind)}
        ]
        return homes[0] if len(homes) == 1 else ""


def _nearest(name: str, known: Any) -> str:
    import difflib  # which few processes ever need

    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"there are: {', '.join(sorted(known))}"


def _shown(name: str) -> str:
    clean = "".join(letter if letter.isprintable() else "?" for letter in name)
    return clean if len(clean) <= _MAX_NAME else clean[:_MAX_NAME] + "..."
