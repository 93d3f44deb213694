"""What in a kernel's log says that something went wrong."""

from __future__ import annotations

import re

_COMPLAINT = re.compile(
    r"WARNING:|BUG:|BUG at|Oops|Call Trace|general protection|stall|blocked for more than|invalid relocation"
    r"|livepatch: .*(?:failed|[Ii]nvalid|unresolvable)|Skipping invalid|Unknown symbol|disagrees about version|no symbol version"
)
MAX_LINES = 60


def complaints(log: str) -> tuple[str, ...]:
    """The lines of `dmesg` from the first complaint on, at most `MAX_LINES`; none if the kernel is content.

    Taints are no complaints: every livepatch that was built outside of the kernel's own tree leaves some.
    """
    lines = log.splitlines()
    first = next((number for number, line in enumerate(lines) if _COMPLAINT.search(line)), None)
    return () if first is None else tuple(lines[first : first + MAX_LINES])
