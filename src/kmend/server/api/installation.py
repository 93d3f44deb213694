"""What a new host is to be told, as far as this server knows it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from sqlalchemy import Connection

from kmend.core.manifest import sha256_hex
from kmend.server.api.services import Services
from kmend.server.operations import authority
from kmend.server.repository import agent
from kmend.server.repository.installing import Installation, one_line
from kmend.server.repository.refreshing import read_root
from kmend.trust import current

NOTHING_TO_INSTALL = "no agent package is published in the repository: kmend-factory publish --agent-package FILE"


def line(services: Services, connection: Connection, secret: str) -> tuple[str, str]:
    """The one line for an enrolment key; where there cannot be one, empty, and why."""
    config = services.config
    script = agent.read_files(connection).script
    if script is None:
        return "", NOTHING_TO_INSTALL
    if not config.root.exists():
        return "", "this server has no trust root yet: kmend-server repository adopt"
    root = read_root(config)
    pin = _pin(config.authority) if config.authority is not None else ""
    version = current.read_root(root).signed.version
    what = Installation(config.repository_url, version, sha256_hex(root), config.server.public_url, pin, script)
    return one_line(what, secret), ""


@lru_cache(maxsize=8)
def _pin(path: Path) -> str:
    return authority.pin_of(authority.read_certificate(path))
