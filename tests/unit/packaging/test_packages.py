"""The packages: the same bytes wherever they are made, and nothing in them that should not be."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import agent_tree
from packager import building, definition, manual
from packager.errors import PackagingError
from packager.offer import sha256_of

ROOT = Path(__file__).parents[3]


def text_of(*command: str | Path) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made in this process."""
    made = building.build(tmp_path_factory.mktemp("packages"), ("deb", "rpm"))
    return {path.suffix.lstrip("."): path for path in made}


@pytest.fixture(scope="session")
def unpacked(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The deb as it lies on a host; its control files are in DEBIAN."""
    folder = tmp_path_factory.mktemp("unpacked") / "root"
    subprocess.run(["dpkg-deb", "--raw-extract", packages["deb"], folder], check=True, timeout=60)
    return folder


def test_made_twice_they_are_the_same(packages: dict[str, Path], tmp_path: Path) -> None:
    """Another umask, time zone, language, folder and home."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'packaging'}",
        "TZ": "Asia/Tokyo",
        "LANG": "de_DE.UTF-8",
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }
    command = [sys.executable, "-m", "packager", "build", "-o", str(tmp_path / "again")]
    subprocess.run(command, check=True, env=environment, umask=0o077, cwd=tmp_path, timeout=300, capture_output=True)
    again = {path.suffix.lstrip("."): path for path in (tmp_path / "again").iterdir()}
    # The script holds the digests of the two, and is the same because they are.
    script = again.pop("sh").read_text()
    assert all(sha256_of(path) in script for path in packages.values())
    assert {name: hashlib.sha256(path.read_bytes()).digest() for name, path in again.items()} == {
        name: hashlib.sha256(path.read_bytes()).digest() for name, path in packages.items()
    }


def test_everything_is_owned_by_root_and_writable_by_nobody_else(packages: dict[str, Path]) -> None:
    rows = text_of("dpkg-deb", "--contents", packages["deb"]).splitlines()
    assert {row.split()[1] for row in rows} == {"root/root"}
    assert {row.split()[0] for row in rows} <= {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x", "lrwxrwxrwx"}
    executable = [row.split()[5] for row in rows if row.startswith("-rwx")]
    assert executable == ["./usr/lib/kmend/kmend"]


def test_nothing_compiled_and_no_key_that_signs(packages: dict[str, Path], unpacked: Path) -> None:
    rows = text_of("dpkg-deb", "--contents", packages["deb"]).splitlines()
    files = [unpacked / row.split()[5] for row in rows if not row.startswith("d")]
    assert not [path for path in files if path.suffix in (*agent_tree.COMPILED, ".pyc")]
    assert not [path for path in files if path.read_bytes()[:4] == b"\x7fELF"]
    assert not list(unpacked.rglob("trust/signing"))
    assert not list(unpacked.rglob("factory"))


def test_both_formats_hold_the_same_files(packages: dict[str, Path]) -> None:
    deb = {
        row.split()[5].removeprefix(".")
        for row in text_of("dpkg-deb", "--contents", packages["deb"]).splitlines()
        if not row.startswith("d")
    }
    rows = text_of("rpm", "-qp", "--qf", r"[%{FILEMODES:perms} %{FILENAMES}\n]", packages["rpm"]).splitlines()
    assert {row.split(maxsplit=1)[1] for row in rows if not row.startswith("d")} == deb


def test_configuration_is_kept_in_both(packages: dict[str, Path], unpacked: Path) -> None:
    assert (unpacked / "DEBIAN/conffiles").read_text() == "/etc/kmend/agent.toml\n"
    assert text_of("rpm", "-qpc", packages["rpm"]) == "/etc/kmend/agent.toml\n"


def test_every_unit_is_installed_and_the_preset_decides_what_is_on(unpacked: Path) -> None:
    units = {path.name for path in (ROOT / "packaging/systemd").glob("*.*") if path.suffix != ".preset"}
    assert {path.name for path in (unpacked / "usr/lib/systemd/system").iterdir()} == units
    assert 'ENABLED="' in (unpacked / "DEBIAN/postinst").read_text()
    enabled = re.search(r'^ENABLED="(.*)"', (unpacked / "DEBIAN/postinst").read_text(), re.MULTILINE)
    assert enabled is not None
    assert "kmend-shutdown.service" in enabled[1].split()


@pytest.mark.parametrize("name", ["usr/lib/kmend/kmend", "usr/bin/kmend"])
def test_it_runs_without_any_other_package(unpacked: Path, name: str) -> None:
    assert text_of(unpacked / name, "--version").split()[0] == "kmend"
    command = "import sys; sys.path.insert(0, sys.argv[1]); import kmend.trust.client, kmend.agent.main; print(kmend.__file__)"
    found = text_of("/usr/bin/python3", "-I", "-S", "-c", command, unpacked / "usr/lib/kmend/lib")
    assert found.startswith(str(unpacked))


def test_scripts_are_plain_shell(packages: dict[str, Path], unpacked: Path, tmp_path: Path) -> None:
    # Of what all scripts share, each uses a part only.
    check = ["shellcheck", "--shell=sh", "--severity=warning", "--exclude=SC2034"]
    for path in (
        *(unpacked / "DEBIAN" / name for name in ("postinst", "prerm", "postrm")),
        ROOT / "packaging/install.sh",
    ):
        done = subprocess.run([*check, str(path)], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout
    scripts = text_of("rpm", "-qp", "--scripts", packages["rpm"])
    assert "%%" not in scripts
    (tmp_path / "scripts").write_text(re.sub(r"^\w+ scriptlet .*$", "", scripts, flags=re.MULTILINE))
    subprocess.run(["sh", "-n", tmp_path / "scripts"], check=True, timeout=10)


def test_manual_and_completion_know_every_command() -> None:
    wanted = definition.read()
    page, bash, zsh = manual.page(wanted), manual.completion("bash"), manual.completion("zsh")
    for command in ("status", "update", "rollback", "unload", "quarantine"):
        assert command in page
        assert command in bash
        assert command in zsh
    assert "internal" not in page + bash + zsh
    assert ".SH EXIT STATUS" in page
    assert f'"{wanted.version}"' in page or wanted.version in page
    subprocess.run(["bash", "-n"], input=bash, text=True, check=True, timeout=10)


def test_another_version_says_so(tmp_path: Path) -> None:
    (made,) = building.build(tmp_path, ("deb",), "0.9.1")
    assert made.name == "kmend_0.9.1_all.deb"
    subprocess.run(["dpkg-deb", "-x", made, tmp_path / "root"], check=True, timeout=60)
    assert text_of(tmp_path / "root/usr/bin/kmend", "--version") == "kmend 0.9.1\n"
    with pytest.raises(PackagingError, match="not a version"):
        definition.read("1.0; rm")


@pytest.mark.parametrize("value", ["soon", "-1", ""])
def test_a_date_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", value)
    with pytest.raises(PackagingError, match="no number of seconds"):
        definition.read()


def test_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackagingError, match="dpkg-deb is missing: run make setup-packaging"):
        building.build(tmp_path / "out", ("deb",))
    assert list((tmp_path / "out").iterdir()) == []


def test_rpm_installs_upgrades_and_goes(packages: dict[str, Path], tmp_path: Path) -> None:
    """The files' part of it, in a folder of its own: a changed configuration is kept, and what is left is not kmend's."""
    (newer,) = building.build(tmp_path / "newer", ("rpm",), "99.0")
    root = tmp_path / "root"
    root.mkdir()
    rpm = ["rpm", f"--root={root}", "--dbpath=/var/lib/rpm", "--nosignature"]
    files_only = ["--nodeps", "--noscripts"]
    subprocess.run([*rpm, "-i", *files_only, str(packages["rpm"])], check=True, capture_output=True, timeout=120)
    assert text_of(*rpm, "-V", *files_only, "kmend") == ""
    config = root / "etc/kmend/agent.toml"
    config.write_text("# mine\n")
    subprocess.run([*rpm, "-U", *files_only, str(newer)], check=True, capture_output=True, timeout=120)
    assert text_of(*rpm, "-q", "--qf", "%{VERSION} %{NAME}", "kmend") == "99.0 kmend"
    assert config.read_text() == "# mine\n"
    assert text_of(root / "usr/lib/kmend/kmend", "--version") == "kmend 99.0\n"
    subprocess.run(
        ["find", str(root / "usr/lib/kmend"), "-depth", "-name", "__pycache__", "-exec", "rm", "-r", "{}", "+"],
        check=True,
    )
    subprocess.run([*rpm, "-e", *files_only, "kmend"], check=True, capture_output=True, timeout=120)
    assert config.with_name("agent.toml.rpmsave").read_text() == "# mine\n"
    assert not (root / "usr/lib/kmend").exists()


def test_lintian_has_nothing_to_say(packages: dict[str, Path]) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on=error,warning", packages["deb"]],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_both_ways_of_fetching_are_confined_alike() -> None:
    def confinement(name: str) -> list[str]:
        text = (ROOT / "packaging/systemd" / name).read_text()
        return text[text.index("User=kmend") :].partition("[Install]")[0].split()

    assert confinement("kmend-agent.service") == confinement("kmend-fetch.service")


@pytest.mark.parametrize("name", ["kmend-agent.service", "kmend-fetch.service"])
def test_what_fetches_loads_no_module_and_sees_which_there_are(name: str) -> None:
    lines = (ROOT / "packaging/systemd" / name).read_text().splitlines()
    # What ProtectKernelModules does (systemd.exec(5)) but for hiding /usr/lib/modules.
    assert {"CapabilityBoundingSet=", "AmbientCapabilities=", "NoNewPrivileges=yes", "ProtectSystem=strict"} <= set(
        lines
    )
    (denied,) = [line for line in lines if line.startswith("SystemCallFilter=~")]
    assert "@module" in denied.partition("~")[2].split()
    hiding = ("ProtectKernelModules=", "InaccessiblePaths=", "TemporaryFileSystem=", "ProcSubset=", "RootDirectory=")
    assert not [line for line in lines if line.startswith(hiding)]
