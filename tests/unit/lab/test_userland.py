"""The apt sources that a guest's userland is made from, and what is said when it cannot be made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmend.core.process import ProgramFailedError
from kmend.lab import userland
from kmend.lab.errors import UserlandError
from kmend.lab.userland import debian_sources

LIST = """\
# deb http://commented.example/debian bookworm main
deb http://mirror.example/debian bookworm main contrib # why not
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/keys/one.gpg] http://mirror.example/security bookworm-security main
deb [trusted=yes] http://other.example/ nodistro main
"""
SOURCES = """\
Types: deb deb-src
# a comment inside
URIs: http://mirror.example/debian
Suites: bookworm
  bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: https://vendor.example/
Suites: nodistro
Components: main
"""


def test_one_line_sources() -> None:
    text = debian_sources([(".list", LIST)], "bookworm")
    stanzas = text.strip().split("\n\n")
    assert stanzas[0] == "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\nComponents: main contrib"
    assert stanzas[1].endswith("Suites: bookworm-security\nComponents: main\nSigned-By: /keys/one.gpg")
    assert len(stanzas) == 2


def test_deb822_sources() -> None:
    text = debian_sources([(".sources", SOURCES)], "bookworm")
    assert text.count("Types:") == 1
    assert "bookworm-updates" in text
    assert "comment" not in text
    assert "disabled" not in text
    assert "vendor" not in text


def test_other_files_in_that_folder_are_ignored() -> None:
    text = debian_sources([(".list", LIST), (".save", SOURCES), (".distUpgrade", LIST)], "bookworm")
    assert text.count("Types:") == 2


@pytest.mark.parametrize("files", [[], [(".list", LIST.replace("bookworm", "trixie"))]])
def test_no_source_for_the_suite(files: list[tuple[str, str]]) -> None:
    with pytest.raises(UserlandError, match="do not offer Debian's bookworm"):
        debian_sources(files, "bookworm")


@given(st.sampled_from([".list", ".sources"]), st.text(max_size=300))
def test_any_text_is_read_or_refused(suffix: str, text: str) -> None:
    try:
        debian_sources([(suffix, text)], "bookworm")
    except UserlandError:
        return


def test_only_root_can_make_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UserlandError, match="only be made by root"):
        userland.userland_image()
    assert not list((cache / "lab/userlands").glob("*.ext4"))


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        ("E: Failed to fetch http://x", "archive cannot be reached"),
        ("cp: error writing: No space left on device", "free some disk space"),
        ("mke2fs: Could not allocate block in ext2 filesystem", "free some disk space"),
    ],
)
def test_hints(cache: Path, monkeypatch: pytest.MonkeyPatch, output: str, hint: str) -> None:
    def fail(image: Path, packages: object) -> None:
        raise ProgramFailedError("exit status 1", output=output, status=1)

    monkeypatch.setattr(userland, "_make_userland", fail)
    with pytest.raises(UserlandError) as caught:
        userland.userland_image()
    assert hint in caught.value.hint


def test_it_is_made_once_for_each_set_of_packages(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[list[str]] = []

    def make(image: Path, packages: list[str]) -> None:
        image.touch()
        made.append(packages)

    monkeypatch.setattr(userland, "_make_userland", make)
    first = userland.userland_image()
    assert userland.userland_image() == first
    assert userland.userland_image(["strace"]) != first
    assert userland.userland_image(["systemd-sysv"]) == first
    assert len(made) == 2
    assert "strace" in made[1]
