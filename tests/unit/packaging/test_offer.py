"""The installing script: what it was made for it installs, and anything else changes nothing."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from demo.serving import served

from packager.errors import PackagingError
from packager.offer import make_script, offer

STAND_INS = {
    "id": "echo 0",
    "apt-get": 'echo "$@" >> "$LOG"; exit ${APT_STATUS:-0}',
    "kmend": 'echo kmend "$@" >> "$LOG"; [ "$1" != --version ] || { echo kmend 9; exit 0; }\n'
    '[ "$1" = update ] || exit 0; n=$(grep -c "kmend update" "$LOG"); '
    '[ "$n" -le "${BUSY:-0}" ] && exit 75; exit ${UPDATE_STATUS:-0}',
    "sleep": "exit 0",
}


@dataclass(frozen=True)
class Offered:
    """A repository with packages, served; and a host's folder to install into."""

    folder: Path
    line: str
    host: Path

    @property
    def config(self) -> Path:
        return self.host / "etc/kmend"

    def called(self) -> str:
        log = self.host / "log"
        return log.read_text() if log.exists() else ""

    def run(
        self, *options: str, script: bytes | None = None, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the script with a host of its own."""
        text = script if script is not None else (self.folder / "install/install.sh").read_bytes()
        path = self.host / "install.sh"
        path.write_bytes(text.replace(b"CONFIG=/etc/kmend", f"CONFIG={self.config}".encode()))
        surroundings = {
            "PATH": f"{self.host / 'bin'}:/usr/bin:/bin",
            "LOG": str(self.host / "log"),
            **(environment or {}),
        }
        return subprocess.run(
            ["sh", path, *options], env=surroundings, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def offered(tmp_path: Path) -> Iterator[Offered]:
    host = tmp_path / "host"
    (host / "bin").mkdir(parents=True)
    for name, text in STAND_INS.items():
        (host / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (host / "bin" / name).chmod(0o755)
    (tmp_path / "root.json").write_text("{}")
    (tmp_path / "kmend_9_all.deb").write_bytes(os.urandom(1000))
    repository = tmp_path / "repository"
    repository.mkdir()
    with served(repository) as port:
        packages = [tmp_path / "kmend_9_all.deb"]
        line = offer(repository, f"http://127.0.0.1:{port}/", tmp_path / "root.json", packages)
        yield Offered(repository, line, host)


def test_one_line_vouches_for_the_script_and_the_script_for_the_rest(offered: Offered) -> None:
    script = offered.folder / "install/install.sh"
    assert hashlib.sha256(script.read_bytes()).hexdigest() in offered.line
    assert not re.search("@[A-Z0-9_]+@", script.read_text())
    for name in ("root.json", "kmend_9_all.deb"):
        assert hashlib.sha256((offered.folder / "install" / name).read_bytes()).hexdigest() in script.read_text()
    done = subprocess.run(["sh", "-n", script], check=False, timeout=10)
    assert done.returncode == 0


def test_it_installs_configures_and_updates(offered: Offered) -> None:
    done = offered.run()
    assert done.returncode == 0, done.stderr
    assert (offered.config / "root.json").read_text() == "{}"
    assert 'url = "http://127.0.0.1:' in (offered.config / "agent.toml.d/10-repository.toml").read_text()
    assert "kmend_9_all.deb" in offered.called()
    assert offered.called().splitlines()[-1] == "kmend update"
    assert offered.run().returncode == 0  # again, to upgrade


def test_nothing_is_loaded_when_not_wanted(offered: Offered) -> None:
    assert offered.run("--no-update").returncode == 0
    assert "kmend update" not in offered.called()


def test_it_waits_for_a_service_that_is_at_it_already(offered: Offered) -> None:
    assert offered.run(environment={"BUSY": "3"}).returncode == 0
    assert offered.called().count("kmend update") == 4


def test_the_updates_status_is_handed_on(offered: Offered) -> None:
    done = offered.run(environment={"UPDATE_STATUS": "40"})
    assert done.returncode == 40
    assert "installed, but nothing was loaded" in done.stderr


@pytest.mark.parametrize("name", ["root.json", "kmend_9_all.deb"])
@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_what_it_was_not_made_for_changes_nothing(offered: Offered, name: str, damage: str) -> None:
    path = offered.folder / "install" / name
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "cut" else path.read_bytes() + b"x")
    done = offered.run()
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert not offered.config.exists()
    assert offered.called() == ""


def test_another_publishers_root_is_kept(offered: Offered) -> None:
    offered.config.mkdir(parents=True)
    (offered.config / "root.json").write_text("another")
    done = offered.run()
    assert "is another publisher's" in done.stderr
    assert (offered.config / "root.json").read_text() == "another"
    assert offered.called() == ""
    assert offered.run("--replace-root").returncode == 0
    assert (offered.config / "root.json").read_text() == "{}"


def test_a_script_that_was_cut_off_does_nothing(offered: Offered) -> None:
    whole = (offered.folder / "install/install.sh").read_bytes()
    for size in range(0, len(whole) - len(b'main "$@"\n'), 97):
        offered.run(script=whole[:size])
    assert offered.called() == ""
    assert not offered.config.exists()


PIN = "5a" * 32


@pytest.fixture
def published(offered: Offered) -> Offered:
    """The same packages as targets of a repository, and a script that fits any repository."""
    package = offered.folder / "install/kmend_9_all.deb"
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    script = make_script(offered.host, [package])
    for name, source in {
        "metadata/2.root.json": offered.folder / "install/root.json",
        f"targets/agent/{digest}.kmend_9_all.deb": package,
    }.items():
        (offered.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (offered.folder / name).write_bytes(source.read_bytes())
    (offered.folder / "install/install.sh").write_bytes(script.read_bytes())
    return offered


def given(offered: Offered, **other: str) -> list[str]:
    url = offered.line.split("u=")[1].split("/install/")[0]
    digest = hashlib.sha256(b"{}").hexdigest()
    options = {"repository": url, "root": f"2:{digest}", "server": f"{url}/", "pin": PIN, **other}
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def test_a_published_script_takes_the_host_into_a_fleet_before_it_updates(published: Offered) -> None:
    done = published.run(*given(published), environment={"KMEND_ENROLMENT_KEY": "kmend_enrol_x"})
    assert done.returncode == 0, done.stderr
    calls = [line for line in published.called().splitlines() if line.startswith("kmend ")]
    assert [call.split()[1] for call in calls] == ["--version", "enrol", "update"]
    assert f"--pin {PIN}" in calls[1]
    assert "kmend_enrol_x" not in published.called()
    text = (published.config / "agent.toml.d/10-repository.toml").read_text()
    # The repository is the server's own, so its authority is believed for that, too.
    assert f'ca_file = "{published.config}/server-ca.pem"' in text
    assert (published.config / "root.json").read_text() == "{}"


def test_again_is_handed_to_the_enrolment(published: Offered) -> None:
    for words, handed in (([], False), (["--again"], True)):
        assert published.run(*given(published), "--enrol-key", "k", *words).returncode == 0
        (*_, call) = [line for line in published.called().splitlines() if line.startswith("kmend enrol")]
        assert ("--again" in call.split()) == handed


@pytest.mark.parametrize(("status", "expected"), [(30, 0), (40, 0), (1, 1), (60, 60)])
def test_that_the_server_has_nothing_yet_is_no_failure(published: Offered, status: int, expected: int) -> None:
    done = published.run(*given(published), "--enrol-key", "k", environment={"UPDATE_STATUS": str(status)})
    assert done.returncode == expected
    assert ("installed and enrolled" in done.stderr) == (expected == 0)


def test_a_repository_elsewhere_is_not_believed_by_the_servers_authority(published: Offered) -> None:
    words = given(published, server="https://kmend.example:8443")
    done = published.run(*words, environment={"KMEND_ENROLMENT_KEY": "k"})
    assert done.returncode == 0, done.stderr
    assert "ca_file" not in (published.config / "agent.toml.d/10-repository.toml").read_text()


@pytest.mark.parametrize("what", ["metadata/2.root.json", "targets/agent/*.deb"])
def test_what_is_not_of_the_lines_digests_changes_nothing(published: Offered, what: str) -> None:
    (path,) = published.folder.glob(what)
    path.write_bytes(path.read_bytes() + b"x")
    done = published.run(*given(published), "--enrol-key", "k")
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert not published.config.exists()
    assert published.called() == ""


@pytest.mark.parametrize(
    "words",
    [
        {"repository": "https://a/'; reboot; '"},
        {"repository": "file:///srv"},
        {"repository": 'https://a"b'},
        {"server": "https://a b"},
        {"server": "ftp://a"},
        {"root": "2"},
        {"root": "x:" + "0" * 64},
        {"root": "2:" + "g" * 64},
        {"root": "2:00"},
        {"pin": "00"},
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_done(published: Offered, words: dict[str, str]) -> None:
    done = published.run(*given(published, **words), "--enrol-key", "k")
    assert done.returncode == 1
    assert published.called() == ""


def test_a_script_for_any_repository_needs_one_and_a_fleet_needs_a_key(published: Offered) -> None:
    assert "must begin with http" in published.run().stderr
    words = given(published)
    assert "give --repository and --root" in published.run(*words[:2]).stderr
    assert "needs an enrolment key" in published.run(*words).stderr
    assert "--root needs a value" in published.run("--root").stderr
    assert published.called() == ""


def test_unknown_options_and_other_users_are_refused(offered: Offered) -> None:
    assert "unknown option --force" in offered.run("--force").stderr
    (offered.host / "bin/id").write_text("#!/bin/sh\necho 1000\n")
    assert "run this as root" in offered.run().stderr
    assert offered.called() == ""


def test_a_package_manager_that_fails_is_quoted(offered: Offered) -> None:
    done = offered.run(environment={"APT_STATUS": "100"})
    assert done.returncode == 1
    assert "the package could not be installed" in done.stderr
    assert "kmend update" not in offered.called()


@pytest.mark.parametrize(
    "url", ["ftp://a/b", "https://a/'; reboot; '", "https://a b", "file:///srv", "https://a/?q=1", ""]
)
def test_addresses_that_cannot_stand_in_a_script_are_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(PackagingError, match="is not an http or https URL"):
        offer(tmp_path, url, tmp_path, [])


def test_packages_of_other_kinds_are_refused(tmp_path: Path) -> None:
    for packages in (["a.deb", "b.deb"], ["a.apk"]):
        with pytest.raises(PackagingError, match="give one deb"):
            offer(tmp_path, "https://a", tmp_path, [tmp_path / name for name in packages])
    with pytest.raises(PackagingError, match="does not exist"):
        offer(tmp_path, "https://a", tmp_path / "root.json", [])


@pytest.mark.parametrize("tool", ["curl", "wget", "python3"])
def test_the_line_takes_what_the_host_has(offered: Offered, tool: str) -> None:
    """And it runs nothing that is not of the digest in it."""
    fetch = "import sys, urllib.request as r; r.urlretrieve(*sys.argv[1:])"
    others = f'exec {sys.executable} -c \'{fetch}\' "$3" "$2"'
    tools = offered.host / "tools"
    tools.mkdir()
    programs = {tool: f'exec {sys.executable} "$@"' if tool == "python3" else others, "sh": f'echo "$@" >> {tools}/log'}
    for name, text in {**programs, "sha256sum": 'exec /usr/bin/sha256sum "$@"'}.items():
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)

    def run() -> int:
        command = ["/bin/sh", "-c", offered.line]
        return subprocess.run(command, env={"PATH": str(tools)}, cwd=tools, timeout=60, check=False).returncode

    assert run() == 0
    assert (tools / "log").read_text() == "kmend-install.sh\n"
    with (offered.folder / "install/install.sh").open("a") as script:
        script.write("# changed\n")
    assert run() != 0
    assert (tools / "log").read_text() == "kmend-install.sh\n"
