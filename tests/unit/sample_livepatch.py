"""Livepatches for tests: manifests of a made-up kernel build, and modules that `SimulatedKernel` understands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from kmend.core.document import encode
from kmend.core.kernel import KernelIdentity
from kmend.core.manifest import (
    BuildRecord,
    FileRecord,
    FixRecord,
    Manifest,
    ModuleRecord,
    PatchedFunction,
    PatchedObject,
    ProofRecord,
    SourceFile,
    module_name,
    sha256_hex,
)

BUILD_ID = "5ca1ab1e" * 5
OTHER_BUILD_ID = "0ddba115" * 5
KERNEL = KernelIdentity(
    BUILD_ID,
    "6.1.0-50-cloud-amd64",
    "#1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-04)",
    "debian:6.1.0-50-cloud-amd64@6.1.176-1",
)


def patch_of(cve: str) -> bytes:
    """The patch file of a fix."""
    return f"Description: close {cve}\nCVE: {cve}\n".encode()


def fix(cve: str) -> FixRecord:
    """A fix that closes one CVE."""
    return FixRecord(sha256_hex(patch_of(cve)), f"close {cve}", (cve,), "upstream", ("net/unix/af_unix.c",))


def source_of(cves: Sequence[str]) -> dict[str, bytes]:
    """The corresponding source of a livepatch with these fixes: file name -> content."""
    patches = {f"{number:04}-{cve}.patch": patch_of(cve) for number, cve in enumerate(cves, start=1)}
    return {"series": "".join(f"{name}\n" for name in patches).encode(), "glue.c": b"/* glue */\n", **patches}


def module_bytes(level: int, cves: Sequence[str], *, functions: Sequence[str], lie: bool = False) -> tuple[str, bytes]:
    """Name and content of a module; with `lie` it patches one function more than its manifest will say."""
    seed = sha256_hex(repr((level, tuple(cves), tuple(functions), lie)).encode())
    name = module_name(level, seed)
    shown = [f"{function},1" for function in (*functions, "surprise") if lie or function != "surprise"]
    return name, b"\x7fELF simulated\n" + json.dumps({"name": name, "objects": {"vmlinux": shown}}).encode()


def livepatch(
    level: int,
    cves: Sequence[str],
    *,
    base: int | None = None,
    pinned: Sequence[str] = (),
    clears: Sequence[str] = (),
    kernel: KernelIdentity = KERNEL,
    functions: Sequence[str] = ("unix_ioctl",),
    lie: bool = False,
) -> tuple[Manifest, bytes]:
    """A manifest and its unsigned module."""
    name, module = module_bytes(level, cves, functions=functions, lie=lie)
    manifest = Manifest(
        kernel=kernel,
        level=level,
        base=base,
        fixes=tuple(fix(cve) for cve in cves),
        clears=tuple(clears),
        module=ModuleRecord(name, sha256_hex(module), len(module)),
        objects=(
            PatchedObject(
                "vmlinux",
                None,
                tuple(PatchedFunction(function, 0, 10, 20, "net/unix/af_unix.c") for function in functions),
            ),
        ),
        pinned=tuple(pinned),
        built=BuildRecord("kmend-factory 0", "gcc"),
        proof=ProofRecord(("unix_ioctl",), ("symbols",)),
        source=tuple(
            SourceFile(name, FileRecord(sha256_hex(content), len(content))) for name, content in source_of(cves).items()
        ),
    )
    return manifest, module


def write_build(folder: Path, manifest: Manifest, module: bytes) -> Path:
    """What a build leaves in its folder."""
    (folder / "source").mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").write_bytes(encode(manifest))
    (folder / f"{manifest.module.name}.ko").write_bytes(module)
    for source, content in source_of([record.cves[0] for record in manifest.fixes]).items():
        (folder / "source" / source).write_bytes(content)
    return folder
