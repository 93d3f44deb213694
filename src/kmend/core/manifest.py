"""The manifest of a livepatch, and the list of levels that a repository keeps for one kernel build."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from dataclasses import dataclass, field

from kmend.core.errors import MalformedError
from kmend.core.kernel import KernelIdentity, check_build_id

MANIFEST_FORMAT = "kmend-manifest/1"
LEVELS_FORMAT = "kmend-levels/1"
MAX_LEVEL = 999_999
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODULE_NAME = re.compile(r"kmend_[0-9]{1,6}_[0-9a-f]{8}")
_CHANNEL = re.compile(r"[a-z][a-z0-9-]{0,31}")
_CVE = re.compile(r"CVE-[0-9]{4}-[0-9]{4,19}")
_OBJECT_NAME = re.compile(r"[A-Za-z0-9_]{1,55}")
_SYMBOL_NAME = re.compile(r"[A-Za-z0-9_.$]{1,511}")
_SOURCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")


def sha256_hex(content: bytes) -> str:
    """Lower-case hexadecimal SHA-256, the one digest that kmend writes down."""
    return hashlib.sha256(content).hexdigest()


def check_digest(text: str) -> str:
    """`text`, if it is a SHA-256 in lower-case hexadecimal; raises MalformedError otherwise."""
    if not _SHA256.fullmatch(text):
        raise MalformedError(f"{text[:80]!r} is not a SHA-256 digest in lower-case hexadecimal")
    return text


def check_level(level: int) -> int:
    """`level`, if it is a level's number; raises MalformedError otherwise."""
    if not 1 <= level <= MAX_LEVEL:
        raise MalformedError(f"{level} is not a level: levels are 1 to {MAX_LEVEL}")
    return level


def check_channel(name: str) -> str:
    """`name`, if it is a channel's; raises MalformedError otherwise."""
    if not _CHANNEL.fullmatch(name):
        raise MalformedError(f"{name[:40]!r} is not a channel's name: small letters, digits and -, at most 32")
    return name


def module_name(level: int, digest: str) -> str:
    """The kernel module's name: `kmend_<level>_<first 8 hex digits of digest>` (docs/decisions/0004-module-name.md)."""
    return f"kmend_{check_level(level)}_{check_digest(digest)[:8]}"


@dataclass(frozen=True, slots=True)
class FixRecord:
    """A fix inside a livepatch.

    Attributes:
        digest: SHA-256 of the patch file; this is what identifies the fix.
        title: first line of its description.
        cves: the CVEs it closes.
        origin: where it comes from, as its DEP-3 header says.
        files: the source files it changes.
    """

    digest: str
    title: str
    cves: tuple[str, ...]
    origin: str
    files: tuple[str, ...]

    def __post_init__(self) -> None:
        check_digest(self.digest)
        for cve in self.cves:
            if not _CVE.fullmatch(cve):
                raise MalformedError(f"{cve[:40]!r} is not a CVE identifier")


@dataclass(frozen=True, slots=True)
class PatchedFunction:
    """A function that the livepatch replaces.

    Attributes:
        name: its symbol in the kernel.
        sympos: the kernel's position among equal names, 0 where the name is unique (`struct klp_func.old_sympos`).
        old_size: bytes of the original in the shipped kernel.
        new_size: bytes of the replacement.
        source: the source file it was compiled from.
    """

    name: str
    sympos: int
    old_size: int
    new_size: int
    source: str

    def __post_init__(self) -> None:
        if not _SYMBOL_NAME.fullmatch(self.name):
            raise MalformedError(f"{self.name[:80]!r} is not a function's name")
        if self.sympos < 0:
            raise MalformedError(f"sympos of {self.name} is negative")

    @property
    def sysfs_name(self) -> str:
        """The function's folder in `/sys/kernel/livepatch/<module>/<object>/`: the kernel writes sympos 0 as 1."""
        return f"{self.name},{self.sympos or 1}"


@dataclass(frozen=True, slots=True)
class PatchedObject:
    """vmlinux or a module, with the functions replaced in it; none if the fixes only have callbacks for it.

    Attributes:
        name: `vmlinux`, or the module's name as the kernel has it (with `_`).
        build_id: of the module that was patched; None for vmlinux, whose build ID is the kernel's own.
    """

    name: str
    build_id: str | None
    functions: tuple[PatchedFunction, ...]

    def __post_init__(self) -> None:
        if not _OBJECT_NAME.fullmatch(self.name):
            raise MalformedError(f"{self.name[:80]!r} is not an object's name")
        if self.build_id is not None:
            check_build_id(self.build_id)


@dataclass(frozen=True, slots=True)
class ModuleRecord:
    """The livepatch's module file, without the kernel's signature at its end.

    Attributes:
        name: as in `/proc/modules`.
        sha256: of the unsigned file.
        size: of the unsigned file, in bytes.
    """

    name: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if not _MODULE_NAME.fullmatch(self.name):
            raise MalformedError(f"{self.name[:80]!r} is not a livepatch module's name")
        check_digest(self.sha256)
        if not 0 < self.size <= 256 * 1024 * 1024:
            raise MalformedError(f"a module of {self.size} bytes is not believable")


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning that the factory gives with a livepatch: a code for machines, a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """How and from what the livepatch was built, so that anyone can build it again.

    Attributes:
        tool: name and version of the factory.
        compiler: the compiler's own version line.
        inputs: file name of each distro package used -> its SHA-256.
    """

    tool: str
    compiler: str
    inputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProofRecord:
    """What proves the livepatch.

    Attributes:
        originals_equal: functions whose freshly compiled original equals the shipped kernel's bytes and references.
        loader_checks: names of the checks that the simulation of the kernel's loader passed.
    """

    originals_equal: tuple[str, ...]
    loader_checks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HeldFunction:
    """A function of the livepatch, held against the vendor's own fixed kernel.

    Attributes:
        object: that it is part of: `vmlinux` or a module.
        name: its symbol in the livepatch.
        source: the source file it was compiled from.
        identical: whether its bytes equal the vendor's (fields that the linker fills in aside), and all that it refers to.
        cause: why it differs, a word of the factory's closed list; empty if it is identical.
        detail: the same for people.
    """

    object: str
    name: str
    source: str
    identical: bool
    cause: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class VendorRecord:
    """How the livepatch compares with a newer kernel of the vendor's that has the fixes.

    Attributes:
        kernel: the vendor's kernel build.
        functions: every function that the livepatch brings, new ones and cold parts included.
    """

    kernel: KernelIdentity
    functions: tuple[HeldFunction, ...]


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file of the repository that is addressed by its content: `files/<2 hex>/<sha256>`."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        check_digest(self.sha256)
        if not 0 <= self.size <= 256 * 1024 * 1024:
            raise MalformedError(f"a file of {self.size} bytes is not believable")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of the livepatch's corresponding source (GPL-2.0, section 3); docs/repository.md says which there are.

    Attributes:
        name: a plain file name, unique in its livepatch.
        content: its digest and size.
    """

    name: str
    content: FileRecord

    def __post_init__(self) -> None:
        if not _SOURCE_NAME.fullmatch(self.name):
            raise MalformedError(f"{self.name[:80]!r} is not a plain file name")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that is stated of one livepatch, signed with the repository's metadata.

    Attributes:
        kernel: the kernel build it is for.
        level: its number there; only the order of publication.
        base: the level that it was built on, None for the first.
        fixes: in the order of the series.
        clears: digests of recalled or quarantined fixes that this level mends.
        module: the unsigned module.
        objects: what is replaced, by object.
        pinned: reasons why the module must stay loaded until reboot once it was loaded; empty if it may be removed.
        built: how it was made.
        proof: what was checked.
        warnings: what a person should know.
        vendor: how the code compares with the vendor's own fixed kernel; None if it was not held against one.
        source: the corresponding source; levels of early factories have none here, and their patches by their fixes' digests.
    """

    kernel: KernelIdentity
    level: int
    fixes: tuple[FixRecord, ...]
    module: ModuleRecord
    objects: tuple[PatchedObject, ...]
    built: BuildRecord
    proof: ProofRecord
    base: int | None = None
    clears: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    warnings: tuple[Notice, ...] = ()
    vendor: VendorRecord | None = None
    source: tuple[SourceFile, ...] = ()
    format: str = MANIFEST_FORMAT

    def __post_init__(self) -> None:
        if self.format != MANIFEST_FORMAT:
            raise MalformedError(f"manifest format {self.format[:40]!r} is not {MANIFEST_FORMAT}", hint="update kmend")
        check_level(self.level)
        if self.base is not None and not 1 <= self.base < self.level:
            raise MalformedError(f"level {self.level} cannot be built on level {self.base}")
        if not self.module.name.startswith(f"kmend_{self.level}_"):
            raise MalformedError(f"module {self.module.name} does not carry the level {self.level}")
        if not self.fixes or not self.objects:
            raise MalformedError("a livepatch holds at least one fix and replaces at least one function")
        if len({file.name for file in self.source}) != len(self.source):
            raise MalformedError("two files of the corresponding source have the same name")

    @property
    def fix_digests(self) -> frozenset[str]:
        """The set of fixes, which is what counts when levels are compared."""
        return frozenset(fix.digest for fix in self.fixes)

    @property
    def cves(self) -> tuple[str, ...]:
        """Every CVE that the livepatch closes, sorted."""
        return tuple(sorted({cve for fix in self.fixes for cve in fix.cves}))

    def objects_of(self, cve: str) -> tuple[str, ...]:
        """The objects in which functions are replaced for a CVE, in the manifest's order.

        All of them if its fixes change a file that no replaced function comes from: a header may reach into any.
        """
        files = {file for fix in self.fixes if cve in fix.cves for file in fix.files}
        sources = {target.name: {function.source for function in target.functions} for target in self.objects}
        if not files <= set().union(*sources.values()):
            return tuple(sources)
        return tuple(name for name, found in sources.items() if found & files)

    def cves_in(self, objects: Collection[str]) -> frozenset[str]:
        """The CVEs for which functions in any of some objects are replaced."""
        if not objects:
            return frozenset()
        return frozenset(cve for cve in self.cves if not set(objects).isdisjoint(self.objects_of(cve)))


def missing_fixes(current: Manifest, candidate: Manifest) -> frozenset[str]:
    """Fixes that `current` has and `candidate` lacks; not empty means that going there is a regression (DESIGN, section 5)."""
    return current.fix_digests - candidate.fix_digests


@dataclass(frozen=True, slots=True)
class LevelRecord:
    """One published level: its manifest and its unsigned module, by digest.

    Attributes:
        published: when, in seconds since 1970-01-01 UTC.
        channel: only for hosts that take this channel; empty for all.
    """

    level: int
    manifest: FileRecord
    module: FileRecord
    published: int
    channel: str = ""

    def __post_init__(self) -> None:
        check_level(self.level)
        if self.channel:
            check_channel(self.channel)


@dataclass(frozen=True, slots=True)
class Levels:
    """The levels of one kernel build, in rising order: the one TUF target that a host of that build asks for."""

    build_id: str
    levels: tuple[LevelRecord, ...]
    format: str = LEVELS_FORMAT

    def __post_init__(self) -> None:
        check_build_id(self.build_id)
        if self.format != LEVELS_FORMAT:
            raise MalformedError(f"levels format {self.format[:40]!r} is not {LEVELS_FORMAT}", hint="update kmend")
        numbers = [record.level for record in self.levels]
        if numbers != sorted(set(numbers)):
            raise MalformedError("the levels are not in rising order")
