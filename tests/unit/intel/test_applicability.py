"""What a CVE means for a build; and that nothing unknown is called not affected."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.errors import MalformedError
from kmend.core.facts import KernelFacts, MadeFrom
from kmend.core.kernel import KernelIdentity
from kmend.intel import Build, Presence, Reason, judge, outlook
from kmend.intel.applicability import locate
from kmend.intel.feeds import Cna, CveRecord, read_changelog
from kmend.intel.ranges import read_dyad

COMMIT = "c" * 40
FACTS = KernelFacts(
    KernelIdentity(
        "a" * 40, "6.1.0-9-amd64", "#1 SMP Debian 6.1.8-1 (2026-11-01)", "debian:6.1.0-9-amd64@6.1.8-1", "x86_64"
    ),
    {"net/core/dev.c": ("vmlinux",), "fs/exfat/dir.c": ("exfat",), "arch/x86/entry/entry_64.S": ("vmlinux",)},
    (),
    {},
    ("drivers/gpu/host1x/dev.c",),
)
BUILD = Build("6.1.8-1", frozenset({"CVE-2026-3009"}), FACTS)


def record(*files: str, pairs: str = f"6.0:{COMMIT}:6.1.9:{COMMIT}") -> CveRecord:
    return CveRecord("CVE-2026-3001", "it", read_dyad(pairs), files, (COMMIT,))


@pytest.mark.parametrize(
    ("files", "presence", "affected"),
    [
        (("net/core/dev.c",), Presence.BUILT_IN, True),
        (("fs/exfat/dir.c",), Presence.MODULE, True),
        (("fs/exfat/dir.c", "net/core/dev.c"), Presence.BUILT_IN, True),
        (("drivers/gpu/host1x/dev.c",), Presence.NOT_BUILT, False),
        (("drivers/gpu/host1x/dev.c", "fs/exfat/dir.c"), Presence.MODULE, True),
        (("arch/arm64/kernel/traps.c",), Presence.NOT_BUILT, False),
        (("arch/arm64/kernel/traps.c", "drivers/gpu/host1x/Kconfig"), Presence.NOT_BUILT, False),
        (("include/net/sock.h",), Presence.UNKNOWN, None),
        (("drivers/gpu/host1x/dev.c", "include/linux/host1x.h"), Presence.UNKNOWN, None),
        (("include/net/sock.h", "fs/exfat/dir.c"), Presence.MODULE, True),
        (("fs/cifs/smb2pdu.c",), Presence.UNKNOWN, None),
        (("arch/x86/boot/compressed/misc.c",), Presence.UNKNOWN, None),
        (("tools/testing/selftests/x.c",), Presence.UNKNOWN, None),
        ((), Presence.UNKNOWN, None),
    ],
)
def test_where_the_code_is(files: tuple[str, ...], presence: Presence, affected: bool | None) -> None:
    found = judge("CVE-2026-3001", record(*files), BUILD)
    assert (found.presence, found.affected) == (presence, affected)
    assert found.evidence


def test_facts_by_kbuild_say_so() -> None:
    facts = replace(FACTS, made_from=MadeFrom.KBUILD)
    assert locate(["drivers/gpu/host1x/dev.c"], facts)[2] == (
        "drivers/gpu/host1x/dev.c was not compiled by the source's Makefiles",
    )
    presence, _, lines, _ = locate(["drivers/gpu/host1x/dev.c", "arch/x86/boot/compressed/misc.c"], facts)
    assert presence is Presence.UNKNOWN
    assert lines[1].endswith("or whether it was compiled cannot be told")


def test_what_takes_a_cve_away() -> None:
    never = record("net/core/dev.c", pairs=f"6.2:{COMMIT}:6.3:{COMMIT}")
    mended = record("net/core/dev.c", pairs=f"6.0:{COMMIT}:6.1.8:{COMMIT}")
    found = [
        judge("CVE-2026-3001", never, BUILD),
        judge("CVE-2026-3001", mended, BUILD),
        judge("CVE-2026-3009", record("net/core/dev.c"), BUILD),
        judge("CVE-2026-3001", record("net/core/dev.c"), BUILD, rejected=True),
    ]
    assert [(item.affected, item.reason) for item in found] == [
        (False, Reason.RELEASE), (False, Reason.RELEASE), (False, Reason.FIXED_IN_BUILD), (False, Reason.REJECTED),
    ]  # fmt: skip
    assert "never had the bug" in found[0].evidence[0]
    assert "came with 6.1.8" in found[1].evidence[0]


def test_a_fix_that_was_taken_back_counts_for_nothing() -> None:
    build = Build("6.1.8-1", frozenset({"CVE-2026-3001"}), FACTS, frozenset({"CVE-2026-3001"}))
    found = judge("CVE-2026-3001", record("net/core/dev.c"), build)
    assert found.affected is True
    assert "taken back" in found.evidence[0]
    mended = record("net/core/dev.c", pairs=f"6.0:{COMMIT}:6.1.8:{COMMIT}")
    assert judge("CVE-2026-3001", mended, build).reason is Reason.FIXED_IN_BUILD
    assert judge("CVE-2026-3001", None, build).reason is Reason.FIXED_IN_BUILD


def test_what_nobody_knows_stands_open() -> None:
    missing = judge("CVE-2026-3001", None, BUILD)
    blind = judge("CVE-2026-3001", record("net/core/dev.c"), Build("6.1.8-1", frozenset(), None))
    assert [(item.affected, item.reason) for item in (missing, blind)] == [
        (None, Reason.NO_RECORD), (None, Reason.PRESENT),
    ]  # fmt: skip


names = st.sampled_from([
    "net/core/dev.c", "fs/exfat/dir.c", "drivers/gpu/host1x/dev.c", "include/a.h", "fs/moved.c", "arch/arm/a.c",
    "Documentation/a.rst",
])  # fmt: skip


@given(st.lists(names, max_size=6))
def test_not_built_needs_evidence_for_every_file(files: list[str]) -> None:
    presence, objects, *_ = locate(files, FACTS)
    if presence is Presence.NOT_BUILT:
        assert all(name in FACTS.left_out or name.startswith(("arch/arm/", "Documentation/")) for name in files)
    assert bool(objects) == any(name in FACTS.sources for name in files)


CHANGELOG = """linux (6.1.9-1) bookworm-security; urgency=high

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.9
    - net: mend it (CVE-2026-3001)
    - host1x: mend it (CVE-2026-3002)
    - something: mend it (CVE-2026-3003)
    - old: once more (CVE-2026-3009)

 -- A <a@example.org>  Sat, 14 Nov 2026 11:29:58 +0100

linux (6.1.8-1) bookworm-security; urgency=high

  * old: mend it (CVE-2026-3009)

 -- A <a@example.org>  Sat, 7 Nov 2026 11:29:58 +0100
"""


def test_what_stands_open_on_a_build() -> None:
    records = {
        "CVE-2026-3001": record("net/core/dev.c"),
        "CVE-2026-3002": record("drivers/gpu/host1x/dev.c"),
    }
    found = outlook(FACTS, "6.1.8-1", read_changelog(CHANGELOG), records)
    assert found.named == ("CVE-2026-3001", "CVE-2026-3002", "CVE-2026-3003")
    assert (found.compiled, found.not_built) == (("CVE-2026-3001",), ("CVE-2026-3002",))
    assert found.open == ("CVE-2026-3001", "CVE-2026-3003")
    assert (found.unknown, found.closable) == (("CVE-2026-3003",), ("CVE-2026-3001",))
    assert outlook(FACTS, "6.1.9-1", read_changelog(CHANGELOG), records).named == ()
    with pytest.raises(MalformedError, match="does not know"):
        outlook(FACTS, "6.1.7-1", read_changelog(CHANGELOG), records)


COUNTS = {
    "6.1": 7644, "6.1.100": 5369, "6.1.140": 4078, "6.1.160": 3292, "6.1.176": 1905, "6.1.178": 1364, "6.1.183": 1089,
    "5.15.210": 2261, "6.6.140": 2198, "6.12.92": 1939, "6.18.32": 2379, "7.1": 1644,
}  # fmt: skip
"""What the CNA's own tool counts on the same records, and up to five that it takes as mended by a fix older than the bug."""


def test_all_records_of_august_2026(cna: Cna) -> None:
    from kmend.intel import KernelVersion, is_vulnerable

    assert (len(cna.records), cna.aside) == (14_626, ())
    found = {
        text: sum(is_vulnerable(item.pairs, KernelVersion.parse(text)) for item in cna.records.values())
        for text in COUNTS
    }
    assert found == COUNTS


def test_single_records(cna: Cna) -> None:
    from kmend.intel import KernelVersion, is_vulnerable

    stable = cna.records["CVE-2026-53361"].pairs
    releases = ("6.1.140", "6.1.141", "6.1.182", "6.1.183")
    assert [is_vulnerable(stable, KernelVersion.parse(text)) for text in releases] == [False, True, True, False]
    assert [bool(cna.records[cve].cvss) for cve in ("CVE-2026-68187", "CVE-2026-43491", "CVE-2026-68480")] == [
        False
    ] * 3
    header = cna.records["CVE-2026-72421"]
    assert all(name.endswith(".h") for name in header.files)
    assert locate(header.files, FACTS)[0] is Presence.UNKNOWN


@pytest.mark.parametrize("names", [("kernel/trace/Kconfig",), ("arch/x86/Kconfig",), ("Makefile", "lib/Kconfig.debug")])
def test_a_fix_of_configuration_alone_says_nothing_of_what_is_built(names: tuple[str, ...]) -> None:
    """CVE-2024-41004 and CVE-2024-50112, for two: the code that has the bug is none that the record names."""
    assert locate(names, FACTS)[0] is Presence.UNKNOWN
    assert judge("CVE-2026-3001", record(*names), BUILD).affected is None


@pytest.mark.parametrize("machine", ["armv7l", "mips64", "loongarch64", "ppc64"])
def test_of_a_machine_that_is_not_known_no_architecture_is_another(machine: str) -> None:
    facts = replace(FACTS, kernel=replace(FACTS.kernel, architecture=machine))
    assert locate(["arch/arm/kernel/traps.c", "arch/mips/kernel/traps.c"], facts)[0] is Presence.UNKNOWN


def test_samples_and_tools_that_were_compiled_count() -> None:
    facts = replace(FACTS, sources={"samples/vfio-mdev/mtty.c": ("mtty",)})
    assert locate(["samples/vfio-mdev/mtty.c", "drivers/gpu/host1x/dev.c"], facts)[0] is Presence.MODULE


@pytest.mark.parametrize("package", ["6.2~rc3-1~exp1", "6.2-rc3", "next-20260101"])
def test_a_package_that_names_no_release_is_judged_by_its_code_alone(package: str) -> None:
    build = replace(BUILD, package=package)
    mended = f"6.0:{COMMIT}:6.2:{COMMIT}"
    found = judge("CVE-2026-3001", record("net/core/dev.c", pairs=mended), build)
    assert (found.affected, found.presence) == (None, Presence.BUILT_IN)
    assert judge("CVE-2026-3001", record("drivers/gpu/host1x/dev.c", pairs=mended), build).reason is Reason.NOT_BUILT
