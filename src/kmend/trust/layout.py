"""Where things lie in a repository, relative to its URL, and what signed metadata says of a kernel build's levels.

metadata/                    TUF metadata (consistent snapshots; timestamp.json is the only file that changes in place)
targets/kernels/<build ID>/<sha256>.levels.json   the levels of one kernel build
targets/agent/<sha256>.<name>   the agent's packages and the script that installs them
files/<2 hex>/<sha256>       manifests, unsigned modules, corresponding source: named by their content
signatures/<2 hex>/<sha256 of the unsigned module>[.<signer>].p7s   the kernel's module signature, detached
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from kmend.core.errors import MalformedError
from kmend.core.kernel import check_build_id
from kmend.core.manifest import Levels, check_digest, check_level

METADATA = "metadata"
TARGETS = "targets"
BIN_PREFIX = "kernels"
DEFAULT_BIN_BITS = 8
MAX_LEVELS_BYTES = 1024 * 1024
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_SIGNATURE_BYTES = 64 * 1024
MAX_SOURCE_BYTES = 16 * 1024 * 1024
"""Of one file of a level's corresponding source."""
MAX_SOURCE_FILES = 5000
MAX_MODULE_BYTES = 256 * 1024 * 1024
MAX_AGENT_BYTES = 64 * 1024 * 1024
"""Of one file that installs the agent."""
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}")
_SIGNER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def levels_target(build_id: str) -> str:
    """The TUF target that holds the levels of one kernel build."""
    return f"kernels/{check_build_id(build_id)}/levels.json"


def build_id_of(target: str) -> str:
    """The kernel build whose levels a target's path names; empty if it names something else."""
    parts = target.split("/")
    return parts[1] if len(parts) == 3 and parts[0] == "kernels" and parts[2] == "levels.json" else ""


def agent_target(name: str) -> str:
    """The TUF target that holds a file which installs the agent: a package, or the installing script.

    Raises:
        MalformedError: `name` is not a plain file name.
    """
    if not _FILE_NAME.fullmatch(name):
        raise MalformedError(f"{name[:80]!r} is not a plain file name")
    return f"agent/{name}"


def file_path(sha256: str) -> str:
    """Where the file with that content lies."""
    return f"files/{check_digest(sha256)[:2]}/{sha256}"


def signature_path(module_sha256: str, signer: str = "") -> str:
    """Where a module's detached kernel signature lies; `signer` names an operator's own set, the publisher's has no name.

    Raises:
        MalformedError: `signer` is not a short lower-case name.
    """
    if signer and not _SIGNER.fullmatch(signer):
        raise MalformedError(f"{signer[:40]!r} is not a signer's name (lower-case letters, digits and hyphens)")
    suffix = f".{signer}.p7s" if signer else ".p7s"
    return f"signatures/{check_digest(module_sha256)[:2]}/{module_sha256}{suffix}"


@dataclass(frozen=True, slots=True)
class TargetCustom:
    """The member `kmend` of a target's signed `custom` metadata; a client accepts the document only if all of it matches.

    Attributes:
        level: the newest level.
        manifest: SHA-256 of that level's manifest.
        module: SHA-256 of that level's unsigned module.
    """

    build_id: str
    level: int
    manifest: str
    module: str

    def __post_init__(self) -> None:
        check_build_id(self.build_id)
        check_level(self.level)
        check_digest(self.manifest)
        check_digest(self.module)

    @classmethod
    def of(cls, levels: Levels) -> TargetCustom:
        """What must be signed for `levels`.

        Raises:
            MalformedError: there is no level at all; such a document is never published.
        """
        if not levels.levels:
            raise MalformedError(f"kernel build {levels.build_id} has no level")
        newest = levels.levels[-1]
        return cls(levels.build_id, newest.level, newest.manifest.sha256, newest.module.sha256)


@dataclass(frozen=True, slots=True)
class AgentCustom:
    """The same for a file that installs the agent.

    Attributes:
        name: its file name.
        sha256: of its content.
        published: when, in seconds since 1970-01-01 UTC.
    """

    name: str
    sha256: str
    published: int

    def __post_init__(self) -> None:
        agent_target(self.name)
        check_digest(self.sha256)
