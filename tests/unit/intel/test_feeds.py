"""Feeds: what they say is read, what is broken is set aside and named."""

from __future__ import annotations

import datetime
import io
import json
import tarfile
from pathlib import Path

import pytest

from kmend.core.errors import KmendError, MalformedError
from kmend.intel.feeds import read_archive, read_bod, read_changelog, read_epss, read_folder, read_kev
from kmend.intel.feeds.cna import read_tree

COMMIT = "b" * 40
DYAD = f"6.1:{COMMIT}:6.1.9:{COMMIT}\n"


def record(cve: str, **more: object) -> bytes:
    cna = {
        "title": "net: mend it",
        "affected": [{"programFiles": ["net/core/dev.c"]}, {"programFiles": ["net/core/dev.c"]}],
    }
    return json.dumps({"containers": {"cna": {**cna, **more}}, "cveMetadata": {"cveID": cve}, "news": 1}).encode()


def tree(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / "cve" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


FILES = {
    "published/2026/CVE-2026-1001.json": record("CVE-2026-1001"),
    "published/2026/CVE-2026-1001.dyad": DYAD.encode(),
    "published/2026/CVE-2026-1001.sha1": f"{COMMIT}\n".encode(),
    "published/2026/CVE-2026-1001.cvss": b"f421 CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H\n\nAV:L - because\n",
    "published/2026/CVE-2026-1001.mbox": b"\xff\xfe",
    "published/2026/CVE-2026-1002.json": record("CVE-2026-1002"),
    "published/2026/CVE-2026-1002.dyad": b"6.1:junk\n",
    "published/2026/CVE-2026-1003.json": b"{",
    "published/2026/CVE-2026-1003.dyad": DYAD.encode(),
    "published/2026/CVE-2026-1004.dyad": DYAD.encode(),
    "published/2026/CVE-2026-1005.json": record("CVE-2026-9999"),
    "published/2026/CVE-2026-1005.dyad": DYAD.encode(),
    "published/2026/CVE-2026-1006.json": b"[1]",
    "published/2026/CVE-2026-1006.dyad": DYAD.encode(),
    "published/2026/CVE-2026-1007.json": record("CVE-2026-1007"),
    "published/2026/CVE-2026-1007.dyad": DYAD.encode(),
    "rejected/2026/CVE-2026-1007.json": b"{}",
    "rejected/2026/CVE-2026-1008.mbox.rejected": b"",
    "rejected/2026/CVE-2026-1008": b"",
}


@pytest.mark.parametrize("packed", [False, True])
def test_the_cnas_tree(tmp_path: Path, packed: bool) -> None:
    folder = tree(tmp_path / "vulns", FILES)
    if packed:
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
            archive.add(folder, "vulns-1")
        found = read_archive(tmp_path / "a.tar.gz")
    else:
        found = read_folder(folder)
    assert list(found.records) == ["CVE-2026-1001"]
    mended = found.records["CVE-2026-1001"]
    assert (mended.title, mended.files, mended.commits) == ("net: mend it", ("net/core/dev.c",), (COMMIT,))
    assert mended.cvss == "CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H"
    assert found.rejected == {"CVE-2026-1007", "CVE-2026-1008"}
    assert [item.name for item in found.aside] == [f"CVE-2026-100{number}" for number in (2, 3, 4, 5, 6)]
    assert all(item.why for item in found.aside)


def test_what_is_no_tree(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"junk")
    with tarfile.open(tmp_path / "other.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("etc/passwd"), io.BytesIO())
    whole = tmp_path / "whole.tar.xz"
    with tarfile.open(whole, "w:xz") as archive:
        archive.add(tree(tmp_path / "v", FILES), "v")
    (tmp_path / "cut.tar.xz").write_bytes(whole.read_bytes()[:200])
    for name in ("x.tar", "other.tar", "cut.tar.xz", "missing.tar"):
        with pytest.raises(KmendError):
            read_archive(tmp_path / name)
    with pytest.raises(MalformedError):
        read_folder(tmp_path)


def test_kev_with_members_that_nobody_knows(kev_catalogue: bytes) -> None:
    document = json.loads(kev_catalogue)
    document["novelty"] = {"a": 1}
    document["vulnerabilities"][0] |= {"forensicTriage": "Yes", "mood": 7}
    document["vulnerabilities"][1] = {"cveID": "CVE-2026-0001", "dateAdded": "soon"}
    document["vulnerabilities"].append(5)
    found = read_kev(json.dumps(document).encode())
    assert len(found.entries) == len(document["vulnerabilities"]) - 2
    assert [item.name for item in found.aside] == ["CVE-2026-0001", f"entry {len(document['vulnerabilities']) - 1}"]
    assert found.entries[document["vulnerabilities"][0]["cveID"]].forensic is True
    assert found.version == "2026.08.07"


def test_kev_as_it_is(kev_catalogue: bytes) -> None:
    found = read_kev(kev_catalogue)
    assert (len(found.entries), found.aside) == (1662, ())
    entry = found.entries["CVE-2022-0492"]
    assert (entry.added, entry.due, entry.forensic) == (datetime.date(2026, 6, 2), datetime.date(2026, 6, 5), None)
    assert found.released == int(datetime.datetime(2026, 8, 7, 16, 45, 47, tzinfo=datetime.timezone.utc).timestamp())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"vulnerabilities": 5}', b"[" * 100_000])
def test_what_is_no_catalogue(content: bytes) -> None:
    with pytest.raises(MalformedError):
        read_kev(content)


def test_epss(epss_scores: str) -> None:
    found = read_epss(epss_scores)
    assert len(found.scores) > 14_000
    assert found.aside == ()
    assert found.scores["CVE-2019-25160"] == (0.00745, 0.51744)
    daily = read_epss(
        "#model_version:v2025.03.14,score_date:2026-08-16T00:00:00+0000\ncve,epss,percentile\nCVE-2026-1001,0.5,0.9\nCVE-2026-1,1,1\n"
        "CVE-2026-1002,x,0.9\nCVE-2026-1003,1.5,0.9\nCVE-2026-1004\n"
    )
    assert (daily.model, daily.date) == ("v2025.03.14", "2026-08-16")
    assert daily.scores == {"CVE-2026-1001": (0.5, 0.9)}
    assert len(daily.aside) == 4
    for broken in ("a,b\n", "", "a\rb,c\n", "\x00", "a" * 200_000):
        with pytest.raises(MalformedError):
            read_epss(broken)


def test_all_sixteen_rows_of_the_directive(data: Path) -> None:
    text = (data / "cisa-bod-26-04.csv").read_text()
    rows = {(row.in_kev, row.exposed, row.automatable, row.total): (row.days, row.forensic) for row in read_bod(text)}
    no, yes = False, True
    assert rows == {
        (no, no, no, no): (None, no), (yes, no, no, no): (14, no), (no, yes, no, no): (60, no), (no, no, yes, no): (60, no),
        (no, no, no, yes): (None, no), (yes, yes, no, no): (14, no), (yes, no, yes, no): (14, no), (no, yes, yes, no): (14, no),
        (yes, no, no, yes): (14, no), (no, yes, no, yes): (14, no), (no, no, yes, yes): (60, no), (yes, yes, yes, no): (3, no),
        (yes, yes, no, yes): (3, yes), (yes, no, yes, yes): (3, yes), (no, yes, yes, yes): (3, no),
        (yes, yes, yes, yes): (3, yes),
    }  # fmt: skip
    for broken in (
        text.replace("60 days", "some day", 1),
        text.rsplit("\n", 2)[0],
        text + text.splitlines()[-1] + "\n",
        "",
        "a,b\n1,2\n",
        "a\rb",
    ):
        with pytest.raises(MalformedError):
            read_bod(broken)


CHANGELOG = """linux (6.1.9-2) bookworm-security; urgency=high

  * ext4: our own mend (CVE-2026-3001) (Closes: #1)

 -- A Maintainer <a@example.org>  Mon, 16 Nov 2026 11:17:40 +0100

linux (6.1.9-1) bookworm-security; urgency=high

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.8
    - smb: client: fix OOB read from an offset that runs over
      two lines (CVE-2026-3002, CVE-2026-3003)
    - [arm64,armhf] net: mend it (CVE-2026-3004)
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.9
    - net: nothing to see
    - net: mend it again (CVE-2026-3004) (CVE-2026-3005)

  [ Another Person ]
  * Debian's own: that too (CVE-2026-3006)

 -- A Maintainer <a@example.org>  Sat, 14 Nov 2026 11:29:58 +0100
"""


def test_debians_changelog() -> None:
    newest, before = read_changelog(CHANGELOG)
    assert (newest.version, newest.date) == ("6.1.9-2", "Mon, 16 Nov 2026 11:17:40 +0100")
    assert [(fix.cve, fix.title, fix.stable) for fix in newest.fixes] == [
        ("CVE-2026-3001", "ext4: our own mend (Closes: #1)", "")
    ]
    title = "smb: client: fix OOB read from an offset that runs over two lines"
    assert [(fix.cve, fix.title, fix.stable) for fix in before.fixes] == [
        ("CVE-2026-3002", title, "6.1.8"),
        ("CVE-2026-3003", title, "6.1.8"),
        ("CVE-2026-3004", "net: mend it", "6.1.8"),
        ("CVE-2026-3005", "net: mend it again", "6.1.9"),
        ("CVE-2026-3006", "Debian's own: that too", ""),
    ]
    with pytest.raises(MalformedError):
        read_changelog("hello\n")


@pytest.mark.parametrize("files", [["net/core/dev.c", 5], "net/core/dev.c", [None]])
def test_a_record_with_a_file_that_is_no_text_is_set_aside(files: object) -> None:
    cve = "CVE-2026-3001"
    document = {"containers": {"cna": {"affected": [{"programFiles": files}]}}, "cveMetadata": {"cveID": cve}}
    pair = f"6.0:{'a' * 40}:6.1.9:{'a' * 40}".encode()
    stem = f"cve/published/2026/{cve}"
    found = read_tree([(f"{stem}.json", json.dumps(document).encode()), (f"{stem}.dyad", pair)], "here")
    assert (found.records, [item.name for item in found.aside]) == ({}, [cve])
