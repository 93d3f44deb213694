"""What the server would have this host run: kept by the service, read by everybody as a rule that only holds back."""

from __future__ import annotations

from pathlib import Path

from kmend.agent.paths import Paths
from kmend.agent.policy import Rule, Withheld
from kmend.core import durable
from kmend.core.document import decode, encode
from kmend.core.errors import MalformedError, SystemProblemError
from kmend.core.wire import Offer

MAX_BYTES = 4096


def path(paths: Paths) -> Path:
    """Where it lies: in the service's own folder, so whoever reads it does not trust it."""
    return paths.fetched / "offer.json"


def read(paths: Paths) -> Offer | None:
    """The last offer; None if there is none that can be read."""
    try:
        return decode(Offer, durable.read_bounded(path(paths), max_bytes=MAX_BYTES, follow=False), max_bytes=MAX_BYTES)
    except (MalformedError, SystemProblemError):
        return None


def write(paths: Paths, offer: Offer) -> None:
    """Keep an offer; raises SystemProblemError if it cannot be written."""
    durable.write_durably(path(paths), encode(offer) + b"\n")


def rule(offer: Offer | None, build_id: str, level: int) -> Withheld | None:
    """The rule that withholds a level which the server has not offered; None if it has."""
    if offer is not None and (offer.build_id, offer.level) == (build_id, level):
        return None
    if offer is None or offer.build_id != build_id:
        return Withheld(Rule.SERVER, None, "the server has not offered anything to this host yet")
    held = f"offers level {offer.level}" if offer.level else "offers nothing yet"
    return Withheld(Rule.SERVER, None, f"the server {held}{f' ({offer.reason})' if offer.reason else ''}")
