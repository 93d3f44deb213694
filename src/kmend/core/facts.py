"""Kernel facts: what others than the factory need to know of a kernel build. The factory writes them, the server imports them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kmend.core.kernel import KernelIdentity


@dataclass(frozen=True, slots=True)
class KernelModule:
    """A module that the distro ships for a kernel build.

    Attributes:
        name: as the kernel has it, with `_`.
        path: inside the image package, without its compression.
        build_id: GNU build ID of the shipped file; None if it has none.
        aliases: what makes the kernel ask for it.
        depends: names of modules that it needs.
    """

    name: str
    path: str
    build_id: str | None
    aliases: tuple[str, ...]
    depends: tuple[str, ...]


class MadeFrom(str, enum.Enum):
    """What says which source files were compiled."""

    DEBUG_INFORMATION = "debug information"
    """The compiler's own word, in the shipped binaries."""
    KBUILD = "kbuild"
    """The source's Makefiles and the distro's configuration: what the build was told to compile."""


@dataclass(frozen=True, slots=True)
class KernelFacts:
    """A versioned document.

    Attributes:
        sources: source file -> the objects that hold it: `vmlinux` or module names; files that others include are among them.
        modules: every module that the distro ships.
        config: option -> value.
        left_out: source files that the tree has, and of which nothing was compiled. Of a file that stands neither there nor in
            `sources` nothing is known: it is not in this tree under that name, or whether it was compiled cannot be told.
        made_from: documents without it were made from debug information.
    """

    kernel: KernelIdentity
    sources: dict[str, tuple[str, ...]]
    modules: tuple[KernelModule, ...]
    config: dict[str, str]
    left_out: tuple[str, ...] = ()
    format: str = "kmend-kernel-facts/1"
    made_from: MadeFrom = MadeFrom.DEBUG_INFORMATION
