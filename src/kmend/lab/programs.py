"""The programs of the host that the lab uses, and the Debian packages that they come from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from kmend.lab.errors import UserlandError

_PACKAGES = {
    "busybox": "busybox-static",
    "depmod": "kmod",
    "dpkg-deb": "dpkg",
    "gcc": "gcc and libc6-dev",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
}


def program(name: str) -> Path:
    """Where a program is; `/usr/sbin` is searched too, which an ordinary user's PATH lacks.

    Raises:
        UserlandError: it is not installed; the hint names its package.
    """
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if found is None:
        raise UserlandError(f"{name} is not installed", hint=f"install the package {_PACKAGES.get(name, name)}")
    return Path(found)
