"""The disks of full guests: a minimal Debian with systemd and Python, and the modules of a kernel.

Both are made once and kept in the cache; a guest writes to a copy-on-write disk over the first and reads the second.
The userland knows nothing of the lab or of a particular kernel; what the lab needs comes with the initial file system.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from kmend.core.cache import cache_root, locked
from kmend.core.process import ProgramFailedError, run
from kmend.core.scratch import scratch_folder
from kmend.lab.errors import UserlandError
from kmend.lab.kernelpackage import UnpackedKernel
from kmend.lab.programs import program

SUITE = "bookworm"
PACKAGES = ("systemd-sysv", "udev", "dbus", "kmod", "python3", "iproute2", "procps", "ca-certificates")
DISK_MIB = 2048
_LAYOUT = "1"
_MMDEBSTRAP = ("--quiet", "--mode=root", "--variant=minbase", "--format=directory")
_MASKED = (
    # nothing may wake up while a guest is being measured
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "systemd-timesyncd.service",
    # what a virtual machine has no use for, and a boot without KVM takes seconds for
    "dev-hugepages.mount",
    "e2scrub_reap.service",
    "getty@tty1.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "proc-sys-fs-binfmt_misc.automount",
    "serial-getty@ttyS0.service",
    "sys-fs-fuse-connections.mount",
    "systemd-binfmt.service",
    "systemd-pstore.service",
)
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


def userland_image(packages: Sequence[str] = ()) -> Path:
    """The ext4 image of a minimal Debian; made on first use, about half a minute.

    Args:
        packages: Debian packages that it holds besides the usual ones.

    Raises:
        UserlandError: it cannot be made: no root, no archive, no disk space.
    """
    wanted = sorted({*PACKAGES, *packages})
    key = hashlib.sha256(repr((_LAYOUT, SUITE, wanted, DISK_MIB, _MASKED, _EXCLUDED)).encode()).hexdigest()[:24]
    return _made_once(cache_root() / "lab" / "userlands" / f"{key}.ext4", lambda image: _make_userland(image, wanted))


def modules_image(kernel: UnpackedKernel) -> Path:
    """A read-only ext4 image of the kernel's `/lib/modules/<release>`.

    Raises:
        UserlandError: it cannot be made.
    """
    used = sum(path.lstat().st_size + 4096 for path in kernel.modules.rglob("*"))
    size_mib = used * 5 // 4 // 1024**2 + 8
    return _made_once(
        cache_root() / "lab" / "modules" / f"{kernel.digest[:24]}-{_LAYOUT}.ext4",
        lambda image: _format(image, kernel.modules, size_mib, journal=False),
    )


def _made_once(image: Path, make: Callable[[Path], None]) -> Path:
    if image.is_file():
        return image
    with locked(image.with_suffix(".lock")):
        if not image.is_file():
            try:
                with scratch_folder("image", image.parent) as folder:
                    make(folder / image.name)
                    (folder / image.name).chmod(0o644)
                    (folder / image.name).replace(image)
            except ProgramFailedError as problem:
                raise UserlandError(
                    f"cannot make {image.name} for the lab's guests: {problem.message}", hint=_hint(problem.output)
                ) from problem
            except OSError as problem:
                raise UserlandError(
                    f"cannot make {image}: {problem.strerror}", hint="free some disk space, or set KMEND_CACHE"
                ) from problem
    return image


def _hint(output: str) -> str:
    if "No space left" in output or "Could not allocate block" in output:
        return "free some disk space, or set KMEND_CACHE to a larger disk"
    if "Could not resolve" in output or "Failed to fetch" in output or "Unable to fetch" in output:
        return "the Debian archive cannot be reached through this machine's apt sources"
    return ""


def _format(image: Path, folder: Path, size_mib: int, *, journal: bool) -> None:
    # Inode tables are written now, so that no kernel thread does it while a guest is being measured.
    features = "^metadata_csum_seed" if journal else "^has_journal"
    options = f"-q -F -t ext4 -m 0 -O {features} -E lazy_itable_init=0,root_owner=0:0".split()
    run([program("mke2fs"), *options, "-d", folder, image, f"{size_mib}M"], timeout=300)


def _make_userland(image: Path, packages: Sequence[str]) -> None:
    if os.geteuid() != 0:
        raise UserlandError(
            "the Debian userland of full guests can only be made by root",
            hint="run this once as root with the same KMEND_CACHE; after that any user can boot it",
        )
    with scratch_folder("debian", image.parent) as work:
        sources = work / "sources"
        sources.write_text(debian_sources(_apt_files(), SUITE), encoding="utf-8")
        root = work / "root"
        options = [*_MMDEBSTRAP, *_proxy_options(), f"--include={','.join(packages)}"]
        options += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
        run([program("mmdebstrap"), *options, SUITE, root, sources], timeout=1800)
        _prepare(root)
        _format(image, root, DISK_MIB, journal=True)


def _prepare(root: Path) -> None:
    (root / "etc/hostname").write_text("kmend-lab\n", encoding="utf-8")
    (root / "etc/hosts").write_text("127.0.0.1 localhost kmend-lab\n", encoding="utf-8")
    (root / "etc/fstab").write_text("", encoding="utf-8")
    (root / "etc/resolv.conf").write_text("", encoding="utf-8")
    (root / "etc/machine-id").write_text("", encoding="utf-8")  # each guest gets one of its own at its first boot
    for unit in _MASKED:
        link = root / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    getty = root / "etc/systemd/system/getty.target.wants"
    shutil.rmtree(getty, ignore_errors=True)
    for name in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / name, ignore_errors=True)


def _apt_files() -> list[tuple[str, str]]:
    folder = Path("/etc/apt")
    paths = [folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))]
    return [(path.suffix, path.read_text(encoding="utf-8", errors="replace")) for path in paths if path.is_file()]


def debian_sources(files: Sequence[tuple[str, str]], suite: str) -> str:
    """This machine's own apt sources as far as they offer `suite`, one stanza for each, in apt's deb822 form.

    Args:
        files: suffix and content of each file of sources: `.list` one line each, `.sources` deb822.

    Raises:
        UserlandError: none of them offers it.
    """
    stanzas = []
    for suffix, text in files:
        if suffix == ".list":
            stanzas += [stanza for line in text.splitlines() if (stanza := _stanza_of_line(line))]
        elif suffix == ".sources":
            plain = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
            stanzas += [stanza.strip() for stanza in re.split(r"\n[ \t]*\n", plain) if stanza.strip()]
    fitting = [stanza for stanza in stanzas if _offers(stanza, suite)]
    if not any(suite in _field(stanza, "Suites").split() for stanza in fitting):
        raise UserlandError(
            f"this machine's apt sources do not offer Debian's {suite}",
            hint=f"add a source for {suite}; the lab's guests run that release whatever the host runs",
        )
    return "\n\n".join(fitting) + "\n"


def _stanza_of_line(line: str) -> str | None:
    """A one-line source as a stanza (sources.list(5))."""
    match = re.fullmatch(
        r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<parts>[^#]+?)\s*(?:#.*)?", line
    )
    if match is None:
        return None
    fields = [f"Types: deb\nURIs: {match['uri']}\nSuites: {match['suite']}\nComponents: {match['parts']}"]
    for option in (match["options"] or "").split():
        name, _, value = option.partition("=")
        if name == "signed-by":
            fields.append(f"Signed-By: {value}")
    return "\n".join(fields)


def _field(stanza: str, name: str) -> str:
    match = re.search(rf"^{name}:[ \t]*(.*(?:\n[ \t]+.*)*)", stanza, re.MULTILINE | re.IGNORECASE)
    return match[1] if match else ""


def _offers(stanza: str, suite: str) -> bool:
    """Whether a stanza is an enabled source of binary packages of the suite, its updates or its security updates."""
    wanted = {suite, f"{suite}-updates", f"{suite}-security"}
    enabled = _field(stanza, "Enabled").strip().lower() not in ("no", "false", "0")
    return enabled and "deb" in _field(stanza, "Types").split() and bool(wanted & set(_field(stanza, "Suites").split()))


def _proxy_options() -> list[str]:
    """The proxies that this machine's apt uses; mmdebstrap does not read its configuration."""
    dump = run(["apt-config", "dump", "--format", "%f=%v%n"], timeout=30).text
    kept = [
        line.partition("=") for line in dump.splitlines() if re.match(r"Acquire::https?::Proxy", line, re.IGNORECASE)
    ]
    return [f'--aptopt={name} "{value}"' for name, _, value in kept if value]
