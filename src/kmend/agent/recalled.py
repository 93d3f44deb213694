"""What the publisher has recalled, as this host knows it; kept so that it holds at boot, without a network."""

from __future__ import annotations

from kmend.agent import choice, statefile
from kmend.agent.session import Session
from kmend.core.manifest import Manifest
from kmend.core.recall import Extent, Recalls

AT_BOOT = (Extent.STOP_REAPPLY, Extent.REVERT)


def known(session: Session) -> Recalls:
    """The newest recalls that this host has verified."""
    return statefile.load(session.paths.state / "recalls.json", Recalls) or Recalls()


def remember(session: Session, recalls: Recalls) -> None:
    """Store what was verified; TUF has seen to it that the version does not fall.

    Raises:
        SystemProblemError: it cannot be stored.
    """
    if recalls.version != known(session).version:
        statefile.save(session.paths.state / "recalls.json", recalls)


def reason(recalls: Recalls, manifest: Manifest, extents: tuple[Extent, ...] = tuple(Extent)) -> str:
    """Why a level must not be loaded; empty if it may."""
    found = recalls.of(manifest, extents)
    return choice.told(found) if found is not None else ""
