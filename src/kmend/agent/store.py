"""Verified manifests, modules and signatures kept on the host, so that it can explain and go back without a network."""

from __future__ import annotations

from pathlib import Path

from kmend.agent import statefile
from kmend.core import durable
from kmend.core.errors import SystemProblemError
from kmend.core.manifest import Manifest, sha256_hex
from kmend.trust.layout import MAX_MODULE_BYTES

KEEP_LEVELS = 8
"""How many levels are kept besides those in use."""
MAX_SPARE_BYTES = 256 * 1024 * 1024
"""And how large these may be in all."""


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

    def prune(self, in_use: frozenset[str], build_id: str = "") -> None:
        """Forget old levels, but none of those whose modules are `in_use`; and parts of levels that are not whole.

        Args:
            build_id: of the running kernel; levels of other builds go first.

        Raises:
            SystemProblemError: something could not be removed; what is left is whole.
        """
        spare = [path for path in self._by_age(build_id) if path.stem not in in_use]
        size = 0
        for number, path in enumerate(spare):
            size += sum(part.stat().st_size for part in self._parts(path.stem) if part.exists())
            if number >= KEEP_LEVELS or size > MAX_SPARE_BYTES:
                for part in self._parts(path.stem):
                    durable.remove_durably(part)
        for path in self._folder.glob("kmend_*"):
            torn = path.suffix in (".ko", ".p7s") and not path.with_suffix(".json").exists()
            if torn and path.stem not in in_use:
                durable.remove_durably(path)

    def _by_age(self, build_id: str) -> list[Path]:
        """Manifests, the newest of the running build first, those of other builds last."""
        ours = {manifest.module.name for manifest in self.manifests(build_id)}
        found = [path for path in self._folder.glob("kmend_*.json") if path.is_file()]
        return sorted(found, key=lambda path: (path.stem in ours, path.stat().st_mtime, path.name), reverse=True)

    def _parts(self, module: str) -> tuple[Path, ...]:
        """The manifest first: without it the rest is no level any more."""
        return tuple(self._folder / f"{module}{suffix}" for suffix in (".json", ".ko", ".p7s"))
