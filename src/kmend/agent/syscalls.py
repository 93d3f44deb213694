"""The two system calls that change the kernel: `finit_module` and `delete_module`.

The bytes that were verified are the bytes that are loaded: they go into a memory file that is sealed against every change and
reopened read-only, since the kernel refuses a module file that anybody holds open for writing (`deny_write_access` in
`kernel_read_file`), and are hashed once more through that very descriptor.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import os
import platform
from typing import Protocol

from kmend.core.errors import SystemProblemError

_NUMBERS = {
    # machine: (finit_module, delete_module), from each architecture's syscall table
    "x86_64": (313, 176),
    "aarch64": (273, 106),
    "riscv64": (273, 106),
    "ppc64le": (353, 129),
    "s390x": (344, 129),
}


class Loader(Protocol):
    """What can put modules into the kernel and take them out; tests have a simulated one."""

    def load(self, module: bytes, sha256: str) -> None:
        """Load a module; raises OSError with the kernel's errno, SystemProblemError if the bytes are not those of `sha256`."""

    def remove(self, name: str) -> None:
        """Remove a module that nobody uses; raises OSError with the kernel's errno."""


class SystemCalls:
    """The running kernel."""

    def __init__(self) -> None:
        machine = platform.machine()
        if machine not in _NUMBERS:
            raise SystemProblemError(f"kmend does not know the system calls of {machine}")
        self._finit_module, self._delete_module = _NUMBERS[machine]
        self._libc = ctypes.CDLL(None, use_errno=True)

    def load(self, module: bytes, sha256: str) -> None:
        """`finit_module(2)` on a sealed copy of `module`.

        Raises:
            SystemProblemError: the sealed copy does not hash to `sha256`.
            OSError: the kernel refused.
        """
        descriptor = sealed_copy(module)
        try:
            if hash_of(descriptor) != sha256:
                raise SystemProblemError("the module in memory is not the one that was verified; nothing was loaded")
            self._call(self._finit_module, descriptor, ctypes.c_char_p(b""), 0)
        finally:
            os.close(descriptor)

    def remove(self, name: str) -> None:
        """`delete_module(2)`, which never waits and never forces."""
        self._call(self._delete_module, ctypes.c_char_p(name.encode()), os.O_NONBLOCK)

    def _call(self, number: int, *arguments: object) -> None:
        if self._libc.syscall(number, *arguments) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def sealed_copy(content: bytes) -> int:
    """A read-only descriptor of a memory file that holds `content` and can never change; the caller closes it."""
    writable = os.memfd_create("kmend-module", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(writable, view) :]
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(writable, fcntl.F_ADD_SEALS, seals)
        return os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(writable)


def hash_of(descriptor: int) -> str:
    """SHA-256 of what a descriptor's file holds, from its beginning, without moving its position."""
    digest = hashlib.sha256()
    offset = 0
    while piece := os.pread(descriptor, 1 << 20, offset):
        digest.update(piece)
        offset += len(piece)
    return digest.hexdigest()
