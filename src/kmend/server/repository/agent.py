"""What installs the agent: packages and a script, targets of the repository that the offline keys have signed.

The server only repeats what the signed metadata says of them. It could name an older one that was signed too, or none.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection
from tuf.api.metadata import TargetFile

from kmend.core.document import decode, encode, from_plain
from kmend.core.errors import MalformedError
from kmend.server.store import settings
from kmend.trust import layout

SCRIPT = "kmend-install.sh"
MAX_FILES = 1000
_NAME = "agent_files"
_PREFIX = "agent/"


@dataclass(frozen=True, slots=True)
class AgentFile:
    """A file that installs the agent.

    Attributes:
        published: when it was signed, in seconds since 1970-01-01 UTC.
    """

    name: str
    sha256: str
    size: int
    published: int

    @property
    def path(self) -> str:
        """Where it lies in the repository."""
        return f"{layout.TARGETS}/{_PREFIX}{self.sha256}.{self.name}"


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """All of them, by name."""

    files: tuple[AgentFile, ...] = ()

    @property
    def script(self) -> AgentFile | None:
        """The script that installs the packages; None if none was published."""
        return next((file for file in self.files if file.name == SCRIPT), None)


def of_target(target: TargetFile) -> AgentFile | None:
    """What a target's signed metadata says, if it is such a file and all of it agrees; None otherwise."""
    if not target.path.startswith(_PREFIX):
        return None
    custom = target.custom.get("kmend") if isinstance(target.custom, dict) else None
    try:
        stated = from_plain(layout.AgentCustom, custom)
    except MalformedError:
        return None
    if target.path != layout.agent_target(stated.name) or target.hashes.get("sha256") != stated.sha256:
        return None
    if target.length > layout.MAX_AGENT_BYTES:
        return None
    return AgentFile(stated.name, stated.sha256, target.length, stated.published)


def read_files(connection: Connection) -> AgentFiles:
    """Those of the last import."""
    text = settings.read(connection, _NAME)
    return decode(AgentFiles, text.encode()) if text is not None else AgentFiles()


def write_files(connection: Connection, files: AgentFiles) -> None:
    """Remember what an import found."""
    settings.write(connection, _NAME, encode(files).decode())
