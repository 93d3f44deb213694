"""Our OpenVEX, held against what Trivy and Grype report."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.intel import scanners
from tests.unit.intel.scanners import purl_matches
from tests.unit.intel.test_documents import OBSERVED, go_vex

from kmend.intel.documents import Products, headers, openvex, purls
from kmend.intel.feeds import Cna
from kmend.intel.verdicts import Verdict, Word

RELEASE, PACKAGE = "6.1.0-50-amd64", "6.1.176-1"
CLOSED, OPEN, NONE, ASIDE, HEADER = (f"CVE-2026-{number}" for number in (1001, 1002, 1003, 1004, 1005))
FILES = {
    CLOSED: ("net/unix/af_unix.c",),
    OPEN: ("net/core/dev.c",),
    NONE: ("drivers/gpu/host1x/dev.c",),
    HEADER: ("include/net/sock.h", "net/core/sock.c"),
}
VERDICTS = (
    Verdict(CLOSED, Word.LIVE_PATCHED, "level 2"),
    Verdict(OPEN, Word.NEEDS_REBOOT, "6.1.187-1"),
    Verdict(NONE, Word.NOT_AFFECTED, "not built"),
    Verdict(ASIDE, Word.UNKNOWN),
    Verdict(HEADER, Word.LIVE_PATCHED, "level 2"),
)
IMAGE, COMMON, ALL, LIBC, PERF = (
    f"linux-image-{RELEASE}", "linux-headers-6.1.0-50-common", f"linux-headers-{RELEASE}", "linux-libc-dev", "linux-perf",
)  # fmt: skip
SCANNERS = [(scanners.trivy, scanners.trivy_report), (scanners.grype, scanners.grype_report)]


def document(release: str = RELEASE, package: str = PACKAGE) -> Any:
    products = Products(purls(release, package, "x86_64"), headers(release, package), FILES)
    return openvex("https://kmend.example/v", "kmend.example", 1, products, OBSERVED, VERDICTS)


@pytest.mark.parametrize(("scan", "report"), SCANNERS)
def test_only_what_is_closed_leaves_the_report(scan: Callable[..., Any], report: Callable[..., Any]) -> None:
    cves = (CLOSED, OPEN, NONE, ASIDE, HEADER)
    left = scan(document(), report([(cve, IMAGE, PACKAGE) for cve in cves]))
    assert left == [(OPEN, IMAGE), (ASIDE, IMAGE)]
    unsigned = f"{IMAGE}-unsigned"
    assert scan(document(), report([(cve, unsigned, PACKAGE) for cve in cves])) == [(OPEN, unsigned), (ASIDE, unsigned)]


def test_the_kernels_file_is_meant_too() -> None:
    """Nearly all that Grype says of a kernel of Debian's is of `/boot/vmlinuz-*`."""
    cves = (CLOSED, OPEN, NONE, ASIDE)
    report = scanners.grype_report_of_files([(cve, RELEASE) for cve in cves])
    assert scanners.grype(document(), report) == [(OPEN, "linux-kernel"), (ASIDE, "linux-kernel")]
    other = scanners.grype_report_of_files([(cve, "6.1.0-47-amd64") for cve in cves])
    assert len(scanners.grype(document(), other)) == len(cves), "another one below /boot stays reported"


@pytest.mark.parametrize(("scan", "report"), SCANNERS)
def test_another_kernel_that_is_installed_beside_it_stays_reported(
    scan: Callable[..., Any], report: Callable[..., Any]
) -> None:
    others = [
        (CLOSED, "linux-image-6.1.0-47-amd64", "6.1.170-3"),
        (CLOSED, "linux-image-6.1.0-50-cloud-amd64", PACKAGE),
        (CLOSED, IMAGE, "6.1.176-2"),
        ("CVE-2026-7777", IMAGE, PACKAGE),
    ]
    assert len(scan(document(), report(others))) == len(others)


@pytest.mark.parametrize(("scan", "report"), SCANNERS)
def test_packages_of_the_same_source(scan: Callable[..., Any], report: Callable[..., Any]) -> None:
    names = (COMMON, ALL, LIBC, PERF)
    found = [(cve, name, PACKAGE) for cve, name in itertools.product((CLOSED, OPEN, ASIDE, HEADER), names)]
    left = scan(document(), report(found))
    assert left == [
        (CLOSED, PERF), (OPEN, PERF),
        *((ASIDE, name) for name in names),
        (HEADER, COMMON), (HEADER, ALL), (HEADER, PERF),
    ], "nothing is said of tools, nor where no file is named, nor of a header that modules are built with"  # fmt: skip


def test_what_packages_with_headers_hold() -> None:
    image, common, programs = headers(RELEASE, PACKAGE)
    assert image.purl == f"pkg:deb/debian/linux-headers-{RELEASE}@{PACKAGE}"
    for files, module, program in (
        (("net/core/dev.c", "arch/x86/entry/entry_64.S"), True, True),
        (("include/linux/skbuff.h",), False, True),
        (("fs/exfat/exfat_fs.h", "fs/exfat/dir.c"), False, True),
        (("include/uapi/linux/if.h",), False, False),
        (("arch/x86/include/uapi/asm/kvm.h",), False, False),
        (("scripts/mod/modpost.c",), False, True),
        (("Makefile",), False, True),
        ((), False, False),
    ):
        assert (common.has_none_of(files), image.has_none_of(files), programs.has_none_of(files)) == (
            module,
            module,
            program,
        )
    for release, name in (
        ("6.1.0-50-cloud-amd64", "linux-headers-6.1.0-50-common"),
        ("6.1.0-50-rt-amd64", "linux-headers-6.1.0-50-common-rt"),
        ("6.12.107+deb12-cloud-amd64", "linux-headers-6.12.107%2Bdeb12-common"),
        ("6.12.107+deb12-rt-amd64", "linux-headers-6.12.107%2Bdeb12-common-rt"),
    ):
        assert headers(release, "1")[1].purl == f"pkg:deb/debian/{name}@1"
    assert len(headers("6.1.0-foreign", "1")) == len(headers("custom", "1")) == 2


def test_no_two_statements_speak_of_the_same() -> None:
    """So it is no matter that Trivy takes the latest, and Grype the first."""
    made = document()
    for cve in (CLOSED, OPEN, NONE, ASIDE, HEADER):
        for name in (IMAGE, COMMON, ALL, LIBC, PERF):
            purl = f"pkg:deb/debian/{name}@{PACKAGE}?arch=amd64&distro=debian-12.11"
            assert len(scanners.matching(made, cve, purl)) <= 1


@pytest.mark.parametrize(("scan", "report"), SCANNERS)
def test_nothing_of_3000_stays_closed_after_an_unload(scan: Callable[..., Any], report: Callable[..., Any]) -> None:
    cves = [f"CVE-2026-{number}" for number in range(10_000, 13_000)]
    products = Products(
        purls(RELEASE, PACKAGE, "x86_64"), headers(RELEASE, PACKAGE), dict.fromkeys(cves, ("net/core/dev.c",))
    )

    def made(version: int, word: Word) -> Any:
        verdicts = [Verdict(cve, word, f"level {version}") for cve in cves]
        return openvex(
            "https://kmend.example/v", "k", version, products, OBSERVED, verdicts, issued=OBSERVED.at + version
        )

    loaded, unloaded = made(1, Word.LIVE_PATCHED), made(2, Word.AVAILABLE)
    found = report([(cve, IMAGE, PACKAGE) for cve in cves[:20]])
    assert scan(loaded, found) == []
    assert len(scan(unloaded, found)) == 20
    assert {item["status"] for item in unloaded["statements"] if "linux-image" in item["products"][0]["@id"]} == {
        "affected"
    }
    assert len(unloaded["statements"]) == 2 * len(cves)
    assert made(2, Word.AVAILABLE) == unloaded


def test_go_vex_takes_every_statement() -> None:
    for statement in document()["statements"]:
        go_vex(statement)


def test_the_imitation_tells_the_latest_statement_from_the_first() -> None:
    made = {
        "timestamp": "2026-01-02T00:00:00Z",
        "statements": [
            {"vulnerability": {"name": CLOSED}, "products": [{"@id": "pkg:deb/debian/x"}], "status": "affected"},
            {
                "vulnerability": {"name": CLOSED}, "products": [{"identifiers": {"purl": "pkg:deb/debian/x@1"}}],
                "status": "fixed", "timestamp": "2026-01-01T00:00:00Z",
            },
        ],
    }  # fmt: skip
    found = [(CLOSED, "x", "1")]
    assert scanners.trivy(made, scanners.trivy_report(found)) == [(CLOSED, "x")]
    assert scanners.grype(made, scanners.grype_report(found)) == []


@pytest.mark.parametrize(
    ("general", "special", "matches"),
    [
        ("pkg:deb/debian/x@1?arch=amd64", "pkg:deb/debian/x@1?arch=amd64&distro=debian-12.5", True),
        ("pkg:deb/debian/x@1?arch=amd64&distro=debian-12", "pkg:deb/debian/x@1?arch=amd64&distro=debian-12.5", False),
        ("pkg:deb/debian/x@1?arch=amd64", "pkg:deb/debian/x@1", False),
        ("pkg:deb/debian/x", "pkg:deb/debian/x@1?arch=amd64", True),
        ("pkg:deb/debian/x@1", "pkg:deb/debian/x", False),
        ("pkg:deb/debian/x@1", "pkg:deb/debian/x@2", False),
        ("pkg:deb/debian/x@1", "pkg:deb/ubuntu/x@1", False),
        ("pkg:deb/debian/x@1%2Bdeb13u1", "pkg:deb/debian/x@1+deb13u1?distro=debian-13", True),
        ("x", "pkg:deb/debian/x@1", False),
    ],
)
def test_go_vexs_rule_for_purls(general: str, special: str, matches: bool) -> None:
    assert purl_matches(general, special) is matches


def test_records_of_the_cna_say_enough_for_headers(cna: Cna) -> None:
    """For most CVEs of 6.1 something can be said of the packages with headers; never where a header is changed."""
    common = headers(RELEASE, PACKAGE)[1]
    free = [record for record in cna.records.values() if common.has_none_of(record.files)]
    assert len(free) > len(cna.records) * 3 // 4
    assert not any(file.endswith(".h") for record in free for file in record.files)
