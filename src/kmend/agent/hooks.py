"""Commands of the administrator's, run before and after a level is loaded: a way to ask an application whether it is well.

Each is a list of words, run without a shell, one after the other, with `KMEND_LEVEL`, `KMEND_MODULE`, `KMEND_CVES` and
`KMEND_CAUSE` in its environment. One that fails before the load keeps the level from being loaded; one that fails after it is
reported, or makes the level be taken off again, by policy.
"""

from __future__ import annotations

import os
import shlex

from kmend.agent.config import HooksConfig
from kmend.core.errors import KmendError
from kmend.core.manifest import Manifest
from kmend.core.process import run


def first_failure(commands: tuple[str, ...], hooks: HooksConfig, manifest: Manifest, cause: str) -> str:
    """Run them until one fails; what went wrong, for people, empty if nothing did.

    Args:
        commands: command lines, split as a shell does.
    """
    environment = {
        "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
        "LC_ALL": "C.UTF-8",
        "KMEND_LEVEL": str(manifest.level),
        "KMEND_MODULE": manifest.module.name,
        "KMEND_CVES": " ".join(manifest.cves),
        "KMEND_CAUSE": cause,
    }
    for command in commands:
        try:
            run(shlex.split(command), environment=environment, timeout=hooks.seconds)
        except (KmendError, ValueError) as problem:
            text = problem.message if isinstance(problem, KmendError) else str(problem)
            return f"the hook {command!r} failed: {text[:500]}"
    return ""
