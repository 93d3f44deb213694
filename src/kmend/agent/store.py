"""Verified manifests, modules and signatures kept on the host, so that it can explain and go back without a network."""

from __future__ import annotations

from pathlib import Path

from kmend.agent import statefile
from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.core.manifest import Manifest, sha256_hex
from kmend.trust.layout import MAX_MODULE_BYTES

KEEP_LEVELS = 8
"""How many levels of a kernel build are kept besides those in use."""


class Store:
    """A folder `levels/` with three files a level, named by its module.

    Args:
        folder: created when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, manifest: Manifest, module: bytes, signature: bytes) -> None:
        """Store a level whose parts were verified."""
        durable.make_folder(self._folder)
        name = manifest.module.name
        durable.write_durably(self._folder / f"{name}.ko", module)
        durable.write_durably(self._folder / f"{name}.p7s", signature)
        # Last, so that a level with a manifest is a complete one.
        statefile.save(self._folder / f"{name}.json", manifest)

    def manifest(self, module: str) -> Manifest | None:
        """The manifest of a level, by its module's name; None if it is not kept or cannot be read any more."""
        manifest = statefile.load(self._folder / f"{module}.json", Manifest)
        return manifest if manifest is not None and manifest.module.name == module else None

    def manifests(self, build_id: str) -> tuple[Manifest, ...]:
        """All kept levels of a kernel build, in rising order."""
        found = (self.manifest(path.stem) for path in sorted(self._folder.glob("kmend_*.json")))
        chosen = [manifest for manifest in found if manifest is not None and manifest.kernel.build_id == build_id]
        return tuple(sorted(chosen, key=lambda manifest: manifest.level))

    def module(self, manifest: Manifest) -> tuple[bytes, bytes] | None:
        """The unsigned module and its signature (empty if none), the digest checked; None if it is not kept intact."""
        base = self._folder / manifest.module.name
        try:
            module = durable.read_bounded(base.with_suffix(".ko"), max_bytes=MAX_MODULE_BYTES)
            signature = durable.read_bounded(base.with_suffix(".p7s"), max_bytes=64 * 1024)
        except SystemProblemError:
            return None
        return (module, signature) if sha256_hex(module) == manifest.module.sha256 else None

    def prune(self, in_use: frozenset[str]) -> None:
        """Forget old levels, but none of those whose modules are `in_use`."""
        by_age = sorted(self._folder.glob("kmend_*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in [path for path in by_age if path.stem not in in_use][KEEP_LEVELS:]:
            for suffix in (".json", ".ko", ".p7s"):
                durable.remove_durably(path.with_suffix(suffix))
