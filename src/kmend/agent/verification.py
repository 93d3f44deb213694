"""`kmend verify`: is what is loaded what was signed? The kernel, the files kept here and the signatures, held together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kmend import __version__
from kmend.agent import modulefiles
from kmend.agent.livekernel import Patch
from kmend.agent.session import Session
from kmend.core import durable
from kmend.core.document import encode
from kmend.core.errors import KmendError, MalformedError, SystemProblemError
from kmend.core.manifest import Manifest, sha256_hex
from kmend.trust.signer import signer_of

MAX_NAMED = 10


@dataclass(frozen=True, slots=True)
class Verified:
    """One thing that was looked at.

    Attributes:
        check: a word for machines.
        holds: None if it could not be found out.
        message: what was found, for people.
    """

    check: str
    holds: bool | None
    message: str


@dataclass(frozen=True, slots=True)
class Verification:
    """`kmend verify --json`; only ever gains members.

    Attributes:
        level: that is loaded, 0 for none.
        intact: nothing was found to be otherwise than signed.
    """

    level: int
    module: str
    intact: bool
    checks: tuple[Verified, ...]
    format: str = "kmend-verify/1"


def verify(session: Session) -> Verification:
    """Look at everything; asks no network and changes nothing."""
    view = session.kernel.view()
    current = view.current
    checks: list[Verified] = []
    if view.foreign:
        checks.append(Verified("others", None, f"livepatches that are not kmend's: {', '.join(view.foreign)}"))
    if current is None:
        checks.append(Verified("loaded", True, "no livepatch of kmend's is loaded"))
        return Verification(0, "", True, tuple(checks))
    manifest = session.store.manifest(current.name)
    if manifest is None:
        checks.append(Verified("manifest", False, f"the manifest of {current.name} is not on this host"))
        return Verification(0, current.name, False, tuple(checks))
    checks.append(_kernel(manifest, session.running.build_id))
    checks += [_enabled(current), functions(current, manifest)]
    checks += _module(session, manifest)
    checks.append(_signed(session, manifest))
    intact = not any(item.holds is False for item in checks)
    return Verification(manifest.level, current.name, intact, tuple(checks))


def text(document: Verification) -> str:
    """A row a check, what is wrong first."""
    words = {True: "ok", False: "NO", None: "?"}
    head = f"level {document.level}, {document.module}: " if document.module else ""
    rows = [head + ("everything is as it was signed" if document.intact else "something is not as it was signed")]
    order = {False: 0, None: 1, True: 2}
    for item in sorted(document.checks, key=lambda item: order[item.holds]):
        rows.append(f"  {words[item.holds]:<3} {item.check}: {item.message}")
    return "\n".join(rows)


def functions(patch: Patch, manifest: Manifest) -> Verified:
    """Whether sysfs shows exactly the manifest's functions. Pure."""
    expected = {(target.name, function.sysfs_name) for target in manifest.objects for function in target.functions}
    lacking, more = sorted(expected - patch.functions), sorted(patch.functions - expected)
    if not lacking and not more:
        return Verified("functions", True, f"the kernel shows exactly the {len(expected)} functions of the manifest")
    parts = [f"lacks {_names(lacking)}"] if lacking else []
    parts += [f"has {_names(more)} besides"] if more else []
    return Verified("functions", False, f"the kernel {' and '.join(parts)}")


def _kernel(manifest: Manifest, build_id: str) -> Verified:
    same = manifest.kernel.build_id == build_id
    return Verified(
        "kernel",
        same,
        f"the level is for kernel build {manifest.kernel.build_id}" + ("" if same else f", not {build_id}"),
    )


def _enabled(patch: Patch) -> Verified:
    if not patch.enabled or patch.transition:
        way = "coming into force" if patch.enabled else "being taken off"
        return Verified("enabled", None, f"its transition is under way: it is {way}")
    if patch.unapplied:
        return Verified("enabled", False, f"the kernel has not patched {', '.join(sorted(patch.unapplied))}")
    return Verified("enabled", True, "it is enabled, and no transition is under way")


def _module(session: Session, manifest: Manifest) -> list[Verified]:
    """The file that is kept, its signature, and the module in memory."""
    kept = session.store.module(manifest)
    if kept is None:
        return [
            Verified("module-file", False, "the module kept here is missing, or not the one that its manifest names")
        ]
    module, signature = kept
    found = [Verified("module-file", True, f"SHA-256 {manifest.module.sha256}, as the manifest says")]
    if not signature:
        found.append(Verified("module-signature", None, "it was loaded without a kernel signature"))
    else:
        try:
            signer = signer_of(signature)
        except MalformedError as problem:
            found.append(Verified("module-signature", False, problem.message))
        else:
            message = f"by {signer.name!r}, serial number {signer.serial}; the kernel verifies it when it loads"
            found.append(Verified("module-signature", True, message))
    try:
        stated = modulefiles.build_id_of(module)
    except MalformedError:
        stated = None
    resident = session.kernel.module_build_id(manifest.module.name)
    if stated is None or resident is None:
        found.append(Verified("resident", None, "the module in memory shows no build ID to compare"))
    else:
        same = stated == resident
        message = f"the module in memory has build ID {resident}" + ("" if same else f", the one kept here {stated}")
        found.append(Verified("resident", same, message))
    return found


def _signed(session: Session, manifest: Manifest) -> Verified:
    """The repository's signatures over the level, from the trust root on."""
    from kmend.trust.record import MAX_METADATA_BYTES, signed_levels

    configured = Path(session.config.repository.root)
    try:
        bootstrap = durable.read_bounded(session.paths.root / configured.relative_to("/"), max_bytes=MAX_METADATA_BYTES)
    except SystemProblemError as problem:
        return Verified("signatures", None, f"there is no trust root to verify from: {problem.message}")
    try:
        levels = signed_levels(session.paths.state / "repository", bootstrap, session.running.build_id)
    except KmendError as problem:
        return Verified("signatures", False, problem.message)
    record = next((item for item in levels.levels if item.level == manifest.level), None)
    if record is None:
        message = (
            f"the record kept here does not name level {manifest.level} any more (withdrawn, or of another repository)"
        )
        return Verified("signatures", None, message)
    if (record.module.sha256, record.module.size) != (manifest.module.sha256, manifest.module.size):
        return Verified("signatures", False, f"the signed record names another module for level {manifest.level}")
    if (record.manifest.sha256, record.manifest.size) != _digest(manifest):
        if _version(manifest.built.tool) > _version(__version__):
            message = (
                "the manifest was written by a newer kmend-factory, and may say more than this kmend has kept of it"
            )
            return Verified("signatures", None, message)
        return Verified(
            "signatures", False, f"the manifest kept here is not the one that is signed for level {manifest.level}"
        )
    return Verified("signatures", True, "from the trust root on, the signed record names this very manifest and module")


def _digest(manifest: Manifest) -> tuple[str, int]:
    content = encode(manifest)
    return sha256_hex(content), len(content)


def _version(text: str) -> tuple[int, ...]:
    """Of `kmend-factory 1.2.3`, or `1.2.3`; empty if that is none."""
    parts = text.rpartition(" ")[2].split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() and len(part) < 6 for part in parts) else ()


def _names(found: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{target}:{function.partition(',')[0]}" for target, function in found[:MAX_NAMED])
    return shown + (f" and {len(found) - MAX_NAMED} more" if len(found) > MAX_NAMED else "")
