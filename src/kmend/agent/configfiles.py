"""Reading the configuration: `agent.toml`, then `agent.toml.d/*.toml` in the order of their names, later members winning.

Every problem is found in one go, each with its file and line (`kmend.core.sections`).
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from kmend.agent.config import Config
from kmend.agent.errors import ConfigError
from kmend.core import sections
from kmend.core.sections import MAX_CONFIG_BYTES, MAX_PROBLEMS, Origin, Problem, Source

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["MAX_CONFIG_BYTES", "MAX_DROP_INS", "Loaded", "Origin", "Problem", "load_config", "read_config"]

MAX_DROP_INS = 100
Loaded = sections.Loaded[Config]


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
    """Like `read_config`, with what is wrong as a value. Files are named relative to `folder`."""
    problems: list[Problem] = []
    files = [Source(path, str(path.relative_to(folder))) for path in _sources(folder, problems)]
    loaded = sections.load(Config(), files, tomllib.loads, described="docs/agent.md")
    return dataclasses.replace(loaded, problems=(*problems, *loaded.problems)[:MAX_PROBLEMS])


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
