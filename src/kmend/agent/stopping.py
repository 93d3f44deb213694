"""What stops kmend from loading anything: the kernel's command line, or a file. Looked at each time before a load.

`kmend=off` on the command line of the kernel: kmend does nothing on this boot that changes the kernel, nor asks a
repository. `kmend=no-apply`, or a file `/etc/kmend/no-apply`: nothing is loaded; what is loaded stays, and may be taken off.
The way out of a boot loop that no crash guard sees: add it in the boot loader.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kmend.agent.livekernel import read_kernel_file
from kmend.agent.paths import Paths

_PARAMETER = "kmend="
_MAX_REASON = 200


class Extent(enum.Enum):
    """How much is stopped."""

    OFF = "off"
    NO_APPLY = "no-apply"


@dataclass(frozen=True, slots=True)
class Stop:
    """Something that stops kmend.

    Attributes:
        source: where it comes from, for people.
    """

    extent: Extent
    source: str


def stop(paths: Paths) -> Stop | None:
    """What stops kmend now; None if nothing does. `off` outweighs `no-apply`."""
    found = [_from_command_line(read_kernel_file(paths.proc / "cmdline")), _from_file(paths)]
    stops = [item for item in found if item is not None]
    return min(stops, key=lambda item: item.extent is not Extent.OFF, default=None)


def _from_command_line(text: str) -> Stop | None:
    """The last `kmend=` counts, as for the kernel's own parameters; a word that kmend does not know stops it too."""
    words = [word[len(_PARAMETER) :] for word in text.split() if word.startswith(_PARAMETER)]
    if not words or words[-1] == "on":
        return None
    source = f"the kernel's command line says {_PARAMETER}{words[-1][:_MAX_REASON]}"
    if words[-1] == Extent.OFF.value:
        return Stop(Extent.OFF, source)
    if words[-1] != Extent.NO_APPLY.value:
        source += ", which kmend does not know, and takes for no-apply"
    return Stop(Extent.NO_APPLY, source)


def _from_file(paths: Paths) -> Stop | None:
    """The file's first line says why, for people; a dangling link counts as the file."""
    path = paths.config / "no-apply"
    if not path.exists() and not path.is_symlink():
        return None
    reason = (read_kernel_file(path).splitlines() or [""])[0][:_MAX_REASON]
    return Stop(Extent.NO_APPLY, "there is a file /etc/kmend/no-apply" + (f" ({reason})" if reason else ""))
