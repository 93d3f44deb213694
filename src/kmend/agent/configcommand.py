"""`kmend config show|check`: what is configured, where each value comes from, and what is wrong; without secrets."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass

from kmend.agent.configfiles import Loaded
from kmend.trust.addresses import shown

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_ADDRESSES = frozenset({("repository", "url"), ("network", "proxy")})


@dataclass(frozen=True, slots=True)
class Setting:
    """One member.

    Attributes:
        value: as it is in force, logins in URLs left out.
        file: where it comes from, relative to the configuration's folder; empty for the default.
    """

    section: str
    member: str
    value: object
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Wrong:
    """One problem."""

    file: str
    line: int
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """What `kmend config show` prints."""

    settings: tuple[Setting, ...]
    files: tuple[str, ...]
    problems: tuple[Wrong, ...]
    format: str = "kmend-config/1"


@dataclass(frozen=True, slots=True)
class Checked:
    """What `kmend config check` prints."""

    usable: bool
    files: tuple[str, ...]
    problems: tuple[Wrong, ...]
    format: str = "kmend-config-check/1"


def configuration(loaded: Loaded) -> Configuration:
    """Every setting, those at their defaults too."""
    settings = []
    for section in dataclasses.fields(loaded.config):
        part = getattr(loaded.config, section.name)
        for member in dataclasses.fields(part):
            origin = loaded.origins.get((section.name, member.name))
            value = _without_secrets(section.name, member.name, getattr(part, member.name))
            file, line = (origin.file, origin.line) if origin is not None else ("", 0)
            settings.append(Setting(section.name, member.name, value, file, line))
    return Configuration(tuple(settings), loaded.files, _wrong(loaded))


def checked(loaded: Loaded) -> Checked:
    """Whether it can be used."""
    return Checked(not loaded.problems, loaded.files, _wrong(loaded))


def show_text(document: Configuration) -> str:
    """As TOML, the origin of each value behind it."""
    rows: list[str] = []
    section = ""
    for item in document.settings:
        if item.section != section:
            section = item.section
            rows += ["", f"[{section}]"] if rows else [f"[{section}]"]
        origin = f"{item.file} line {item.line}" if item.file else "default"
        rows.append(f"{f'{item.member} = {_toml(item.value)}':<44} # {origin}")
    return "\n".join(rows)


def check_text(document: Checked) -> str:
    """What is wrong, a problem a line."""
    if document.usable:
        return f"the configuration is right; read: {', '.join(document.files) or 'no file, all is at its default'}"
    rows = []
    for item in document.problems:
        place = f"{item.file} line {item.line}" if item.line else item.file
        rows.append(f"{place}: {item.message}" + (f" ({item.hint})" if item.hint else ""))
    return "\n".join(rows)


def _wrong(loaded: Loaded) -> tuple[Wrong, ...]:
    return tuple(Wrong(item.origin.file, item.origin.line, item.message, item.hint) for item in loaded.problems)


def _without_secrets(section: str, member: str, value: object) -> object:
    if isinstance(value, tuple):
        return tuple(_without_secrets(section, member, item) for item in value)
    if not isinstance(value, str):
        return value
    if (section, member) in _ADDRESSES and "://" not in value:
        return value.rpartition("@")[2]
    return _URL.sub(lambda match: shown(match[0]), value)


def _toml(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)
