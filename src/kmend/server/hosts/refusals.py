"""Why a host is not answered; each has a word that agents know, and never changes."""

from __future__ import annotations

from dataclasses import dataclass

from kmend.core.wire import Refusal

URN = "urn:kmend:problem:"


@dataclass(frozen=True, slots=True)
class Refused:
    """A request of a host that is refused.

    Attributes:
        word: of the type, `urn:kmend:problem:<word>`.
        status: of HTTP.
        counter: with `counter-behind`, the last that was accepted.
        retry_after: seconds; 0 for none.
    """

    word: str
    status: int
    title: str
    detail: str = ""
    counter: int = 0
    retry_after: int = 0

    def problem(self) -> Refusal:
        """The answer's document."""
        return Refusal(URN + self.word, self.title, self.status, self.detail, self.counter)


UNKNOWN_HOST = Refused("unknown-host", 403, "This server does not know that host.", "enrol it: kmend enrol")
BAD_SIGNATURE = Refused("signature", 401, "The request is not signed by that host's key.")
DECOMMISSIONED = Refused(
    "decommissioned", 403, "That host was taken out of the fleet.", "enrol it anew to take it in again"
)
EXPIRED = Refused("expired", 403, "That host was silent for too long and has been let go.", "enrol it anew")
CLONED = Refused(
    "cloned", 409, "Another machine uses the same identity.", "this one asks for an identity of its own: POST /v1/split"
)
KEY_NOT_USABLE = Refused(
    "enrolment-key", 403, "That enrolment key cannot be used, here or any more.", "ask for a new one"
)
TOO_MANY_COPIES = Refused(
    "too-many-copies", 403, "A thousand machines are copies of that host already.",
    "make the image without /var/lib/kmend, or enrol this machine with a key: kmend enrol",
)  # fmt: skip
BUSY = Refused("busy", 503, "The server is busy.", "ask again later", retry_after=5)


def counter_behind(last: int) -> Refused:
    """A counter that was used before: a replay, or a host whose disk was brought back from a backup."""
    return Refused("counter-behind", 409, "That counter was used before.", "go on from the last one", counter=last)


def malformed(detail: str) -> Refused:
    """What came is not a message."""
    return Refused("malformed", 400, "The request is not of the form that it must have.", detail)
