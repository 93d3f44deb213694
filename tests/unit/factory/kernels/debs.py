"""Packages and a package archive for the tests: real .deb files, and an apt that offers them without a network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_CLIENT = """\
#!{python}
import json, pathlib, shutil, sys
offers = json.loads(pathlib.Path({index!r}).read_text())
with open({log!r}, "a") as log:
    log.write(" ".join(sys.argv) + "\\n")
program = pathlib.Path(sys.argv[0]).name
if program == "apt-cache" and sys.argv[1] == "madison":
    for offer in offers:
        if offer["name"] in sys.argv[2:]:
            print(offer["name"], offer["version"], "http://archive.example x/main amd64 Packages", sep=" | ")
    sys.exit(0)
name, _, version = sys.argv[-1].partition("=")
found = [offer for offer in offers if (offer["name"], offer["version"]) == (name, version)]
if not found:
    sys.exit("E: No packages found")
if program == "apt-cache":
    for key in ("Package", "Version", "Architecture", "Size", "SHA256", "Description"):
        print(key + ":", {{"Package": name, "Version": version, "Description": "x\\n SHA256: y"}}.get(key) or found[0][key])
    print()
elif found[0]["complaint"]:
    sys.exit(found[0]["complaint"])
else:
    shutil.copy(found[0]["path"], pathlib.Path.cwd())
"""


def tar_xz(files: Mapping[str, bytes]) -> bytes:
    """A compressed tar archive."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:xz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return output.getvalue()


def write_deb(path: Path, files: Mapping[str, bytes]) -> Path:
    """A .deb with these files; made by hand (it is an ar archive), so that its paths may be bad ones."""
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.xz": tar_xz({"./control": b"Package: x\nVersion: 1\n"}),
        "data.tar.xz": tar_xz(files),
    }
    with path.open("wb") as stream:
        stream.write(b"!<arch>\n")
        for name, content in parts.items():
            stream.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
            stream.write(content + b"\n" * (len(content) % 2))
    return path


@dataclass(slots=True)
class Archive:
    """What the stand-in for apt offers; call `publish` after each change."""

    folder: Path
    offers: list[dict[str, str]] = field(default_factory=list)

    def offer(self, name: str, version: str, files: Mapping[str, bytes], architecture: str = "all") -> Path:
        """Offer a package; returns its file in the archive."""
        folder = self.folder / "pool"
        folder.mkdir(exist_ok=True)
        path = write_deb(folder / f"{name}_{version.replace(':', '%3a')}_{architecture}.deb", files)
        content = path.read_bytes()
        self.offers.append(
            {
                "name": name,
                "version": version,
                "Architecture": architecture,
                "Size": str(len(content)),
                "SHA256": hashlib.sha256(content).hexdigest(),
                "path": str(path),
                "complaint": "",
            }
        )
        self.publish()
        return path

    def publish(self) -> None:
        """Write the index that the client programs read."""
        (self.folder / "index.json").write_text(json.dumps(self.offers))

    def calls(self) -> list[str]:
        """The client's calls so far, program names without their folder."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split(" ", 1)[0].rsplit("/", 1)[-1] + " " + line.split(" ", 1)[1] for line in lines]


def install(folder: Path) -> Archive:
    """Put `apt-cache` and `apt-get` into `folder`/bin; the caller puts that on PATH."""
    (folder / "bin").mkdir(parents=True)
    archive = Archive(folder)
    archive.publish()
    script = _CLIENT.format(python=sys.executable, index=str(folder / "index.json"), log=str(folder / "log"))
    for name in ("apt-cache", "apt-get"):
        program = folder / "bin" / name
        program.write_text(script)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return archive


_PROGRAMS = ("dpkg-deb", "tar", "xz", "make")


def children() -> str:
    """The programs for packages that this process started and that still run; a database for other tests may, too."""
    listed = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True)
    return " ".join(name for name in listed.stdout.split() if name in _PROGRAMS)
