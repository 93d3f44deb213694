"""Build a livepatch again from its corresponding source, and compare the modules as they are before signing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kmend import __version__
from kmend.core.cache import cache_root
from kmend.core.kernel import KernelRef
from kmend.core.manifest import Manifest, sha256_hex
from kmend.core.scratch import scratch_folder
from kmend.factory.build import Built, build
from kmend.factory.desk.claim import Claim, ClaimError
from kmend.factory.desk.moduledifference import Difference, first_difference
from kmend.factory.fixes import Fix, parse_fix
from kmend.factory.kernels.prepared import Kernel, prepare
from kmend.factory.kernels.tree import EnvironmentDiffersError


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of it.

    Attributes:
        claimed: SHA-256 of the unsigned module by the manifest; rebuilt: of the one built now.
        differences: what differs, the cause before what follows from it; empty if the livepatch is reproduced.
        notes: what a person should know when he judges that.
        built: what was built now.
    """

    claimed: str
    rebuilt: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]
    built: Built

    @property
    def equal(self) -> bool:
        """Whether the module, and what the manifest says of it, came out the same."""
        return not self.differences


def reproduce(claim: Claim, *, progress: Callable[[str], None] = lambda message: None) -> Reproduction:
    """Build the livepatch of `claim` with this machine's cache and compilers, and compare.

    Raises:
        ClaimError: the source does not hold the fixes that the manifest names.
        EnvironmentDiffersError: this machine cannot get the same kernel, packages or tools.
        RefusedError, NoChangeError: the factory does not build this at all.
        KmendError: as `build`.
    """
    manifest = claim.manifest
    fixes = series_of(claim)
    progress(f"preparing {manifest.kernel.ref} in {cache_root()}")
    kernel = prepare(KernelRef.parse(manifest.kernel.ref))
    _check_kernel(kernel, manifest)
    built = build(kernel, fixes, level=manifest.level, base=manifest.base, progress=progress)
    notes = []
    tool = f"kmend-factory {__version__}"
    if manifest.built.tool != tool:
        notes.append(f"it was built by {manifest.built.tool}, this is {tool}: another version may build another module")
    return Reproduction(
        claimed=manifest.module.sha256,
        rebuilt=sha256_hex(built.module),
        differences=tuple(_differences(claim, built)),
        notes=tuple(notes),
        built=built,
    )


@contextmanager
def cache_of_its_own() -> Iterator[Path]:
    """Work in a new, temporary cache that shares only downloaded packages with this machine's; removed afterwards.

    A kernel is then prepared anew, elsewhere: nothing that an earlier build left can have a say.
    """
    packages = cache_root() / "packages"
    packages.mkdir(exist_ok=True)
    before = os.environ.get("KMEND_CACHE")
    with scratch_folder("rebuild") as folder:
        (folder / "packages").symlink_to(packages)
        os.environ["KMEND_CACHE"] = str(folder)
        try:
            yield folder
        finally:
            if before is None:
                del os.environ["KMEND_CACHE"]
            else:
                os.environ["KMEND_CACHE"] = before


def series_of(claim: Claim) -> list[Fix]:
    """The fixes of the corresponding source, in order.

    Raises:
        ClaimError: they are not those that the manifest names.
        FixError: one is not a patch that can be used.
    """
    names = claim.source.get("series", b"").decode(errors="replace").split()
    missing = [name for name in names if name not in claim.source]
    if missing:
        raise ClaimError(f"the series names {missing[0]}, which is not part of the source")
    # The factory numbers the files; what follows is the author's own name, which titles a fix that has no description.
    fixes = [parse_fix(claim.source[name], name.partition("-")[2] or name) for name in names]
    wanted = [fix.digest for fix in claim.manifest.fixes]
    if [fix.digest for fix in fixes] != wanted:
        raise ClaimError(
            f"the series holds {len(fixes)} fixes, and they are not the {len(wanted)} that the manifest names",
            hint="the source was changed, or belongs to another level",
        )
    return fixes


def _check_kernel(kernel: Kernel, manifest: Manifest) -> None:
    """Whether this is the kernel build that was patched, out of the same packages; their digests decide that."""
    found, inputs = kernel.identity.build_id, kernel.record.inputs
    if found != manifest.kernel.build_id:
        raise EnvironmentDiffersError(
            f"{manifest.kernel.ref} is kernel build {found} here, and the livepatch is for {manifest.kernel.build_id}",
            hint="the archive has another upload under this name",
        )
    wanted = manifest.built.inputs
    names = sorted(name for name in wanted.keys() | inputs.keys() if wanted.get(name) != inputs.get(name))
    if wanted and names:
        lines = [f"{name}: {wanted.get(name, 'not used')}, here {inputs.get(name, 'not used')}" for name in names]
        raise EnvironmentDiffersError("it was built from other packages:\n  " + "\n  ".join(lines))


def _differences(claim: Claim, built: Built) -> Iterator[Difference]:
    manifest = claim.manifest
    glue = claim.source.get("glue.c")
    if glue is not None and glue != built.glue.encode():
        yield _glue_difference(glue, built.glue.encode())
    if claim.module is not None:
        found = first_difference(claim.module, _renamed(built, manifest.module.name))
        if found is not None:
            yield found
        if sha256_hex(claim.module) != manifest.module.sha256:
            yield Difference(
                "file",
                f"the module's file has SHA-256 {sha256_hex(claim.module)}, the manifest says {manifest.module.sha256}",
            )
    elif sha256_hex(built.module) != manifest.module.sha256:
        yield Difference("file", "the module differs; its file is not at hand, so where cannot be said")
    for name, stated, found_now in (
        ("name", manifest.module.name, built.manifest.module.name),
        ("SHA-256", manifest.module.sha256, built.manifest.module.sha256),
        ("fixes", _without_titles(manifest), _without_titles(built.manifest)),
        ("functions", manifest.objects, built.manifest.objects),
    ):
        if stated != found_now:
            told = f": {stated}, rebuilt {found_now}" if isinstance(stated, str) else ""
            yield Difference("manifest", f"the manifest's {name} is another than the rebuilt one's{told}")


def _renamed(built: Built, name: str) -> bytes:
    """The rebuilt module under the claimed one's name: the name follows from the code, and would be the first thing to differ."""
    mine = built.manifest.module.name
    return built.module.replace(mine.encode(), name.encode()) if len(mine) == len(name) else built.module


def _without_titles(manifest: Manifest) -> list[tuple[object, ...]]:
    """What a manifest says of its fixes, but for titles: a fix without a description is titled by its file's name."""
    return [(fix.digest, fix.cves, fix.origin, fix.files) for fix in manifest.fixes]


def _glue_difference(claimed: bytes, rebuilt: bytes) -> Difference:
    pairs = enumerate(zip(claimed.split(b"\n"), rebuilt.split(b"\n"), strict=False), start=1)
    number, (one, other) = next(
        ((number, pair) for number, pair in pairs if pair[0] != pair[1]), (claimed.count(b"\n") + 1, (b"", b""))
    )
    told = f"{one.decode(errors='replace').strip()!r}, rebuilt {other.decode(errors='replace').strip()!r}"
    return Difference("glue", f"glue.c differs from line {number} on: {told}")
