"""What of a machine must equal the distro's: the configuration as it is read, and the tools as they name themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from kmend.factory.kernels.tree import EnvironmentDiffersError, build_environment, check_toolchain, read_config

CONFIG = """
# Automatically generated file; DO NOT EDIT.
CONFIG_CC_VERSION_TEXT="gcc-12 (Debian 12.2.0-14) 12.2.0"
CONFIG_AS_VERSION=24000
CONFIG_LD_VERSION=24000
CONFIG_PAHOLE_VERSION=124
# CONFIG_KASAN is not set
CONFIG_MODULES=y
CONFIG_EMPTY=""
"""
TOOLS = {
    "gcc-12": "gcc-12 (Debian 12.2.0-14) 12.2.0",
    "as": "GNU assembler (GNU Binutils for Debian) 2.40",
    "ld": "GNU ld (GNU Binutils for Debian) 2.40",
    "pahole": "v1.24",
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tools that say what the distro's say; nothing else is on PATH."""
    for name, says in TOOLS.items():
        put(tmp_path, name, says)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put(folder: Path, name: str, says: str) -> None:
    """A program that says that."""
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\necho more\n")
    (folder / name).chmod(0o755)


def test_a_configuration() -> None:
    assert read_config(CONFIG) == {
        "CONFIG_CC_VERSION_TEXT": '"gcc-12 (Debian 12.2.0-14) 12.2.0"',
        "CONFIG_AS_VERSION": "24000",
        "CONFIG_LD_VERSION": "24000",
        "CONFIG_PAHOLE_VERSION": "124",
        "CONFIG_KASAN": "n",
        "CONFIG_MODULES": "y",
        "CONFIG_EMPTY": '""',
    }


def test_the_same_tools(tools: Path) -> None:
    assert check_toolchain(read_config(CONFIG)) == "gcc-12"


@pytest.mark.parametrize(
    ("tool", "says", "named"),
    [
        ("gcc-12", "gcc-12 (Debian 12.3.0-1) 12.3.0", 'this machine "gcc-12 (Debian 12.3.0-1) 12.3.0"'),
        (
            "as",
            "GNU assembler (GNU Binutils) 2.40.50",
            "CONFIG_AS_VERSION: the distro's kernel has 24000, this machine 24050",
        ),
        (
            "ld",
            "GNU ld (GNU Binutils for Debian) 2.41",
            "CONFIG_LD_VERSION: the distro's kernel has 24000, this machine 24100",
        ),
        (
            "ld",
            "mold 2.40 (compatible with GNU ld)",
            "CONFIG_LD_VERSION: the distro's kernel has 24000, this machine nothing",
        ),
        ("pahole", "v1.25", "CONFIG_PAHOLE_VERSION: the distro's kernel has 124, this machine 125"),
    ],
)
def test_other_tools(tools: Path, tool: str, says: str, named: str) -> None:
    put(tools, tool, says)
    with pytest.raises(EnvironmentDiffersError) as caught:
        check_toolchain(read_config(CONFIG))
    assert named in caught.value.message
    assert len(caught.value.message.splitlines()) == 2, "only what differs is named"
    assert caught.value.exit_status == 4


def test_a_tool_that_is_missing(tools: Path) -> None:
    (tools / "pahole").unlink()
    with pytest.raises(EnvironmentDiffersError, match=r"CONFIG_PAHOLE_VERSION: .* this machine nothing"):
        check_toolchain(read_config(CONFIG))


@pytest.mark.parametrize("text", ["Debian clang version 14.0.6", "", "gcc-12;reboot (x) 1"])
def test_another_compiler_is_not_even_run(text: str) -> None:
    with pytest.raises(EnvironmentDiffersError, match="only gcc is supported"):
        check_toolchain({"CONFIG_CC_VERSION_TEXT": f'"{text}"'})


def test_nothing_of_the_callers_environment_reaches_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KCFLAGS", "CPATH", "MAKEFLAGS", "LD_PRELOAD", "SOURCE_DATE_EPOCH", "KBUILD_OUTPUT"):
        monkeypatch.setenv(name, "something")
    assert build_environment().keys() == {"PATH", "LC_ALL", "HOME", "TZ"}
