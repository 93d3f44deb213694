"""The life of the package on a bare Debian 12: one line installs it and patches the kernel; upgraded, removed, purged."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo.serving import served
from tests.vm.published import Published
from tests.vm.test_agent import Host

from kmend import lab
from packager import building
from packager.offer import offer


class PackagedHost(Host):
    """A guest on which kmend comes from its package."""

    def __init__(self, vm: lab.Vm, published: Published, line: str, newer: Path) -> None:
        super().__init__(vm, published)
        self.line = line
        self.newer = newer

    def command(self, *words: str, status: int = 0) -> str:
        """Run the installed program."""
        done = self.vm.run(["kmend", *words], check=False, timeout=120)
        assert done.status == status, (words, done.status, done.text, done.stderr.decode())
        return done.text

    def apt(self, *words: str, environment: str = "") -> str:
        """Run apt-get without anybody to answer a question; what it says, in full."""
        done = self.vm.sh(f"{environment} apt-get -y {shlex.join(words)} </dev/null 2>&1", timeout=300, check=False)
        assert done.status == 0, done.text
        assert self.vm.sh("dpkg --audit").text == ""
        return done.text

    def install_newer(self) -> str:
        """Upgrade to the version after."""
        self.vm.put(self.newer, "/root/newer.deb")
        return self.apt("install", "/root/newer.deb")


@pytest.fixture(scope="module")
def offered(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str, Path]]:
    """A web server with repository and package: its port, the one line, and a newer package."""
    folder = tmp_path_factory.mktemp("packages")
    shutil.copytree(published.folder / "repository", folder / "repository")
    (package,) = building.build(folder, ("deb",))
    (newer,) = building.build(folder / "newer", ("deb",), "99.0")
    with served(folder / "repository") as port:
        url = f"http://{lab.HOST_ADDRESS}:{port}"
        yield port, offer(folder / "repository", url, published.folder / "keys/root.json", [package]), newer


@pytest.fixture
def bare(published: Published, offered: tuple[int, str, Path]) -> Iterator[PackagedHost]:
    """A Debian without kmend, and without curl and wget."""
    port, line, newer = offered
    with lab.boot(published.kernel, lab.Shape.FULL, network=lab.Network(to_host=(port,))) as vm:
        yield PackagedHost(vm, published, line, newer)


def test_one_line_then_upgrade_remove_and_purge(bare: PackagedHost) -> None:
    wanted = {bare.published.names[-1]: ("1", "0")}
    assert bare.hole() == "answered"
    start = time.monotonic()
    bare.vm.sh(f"cd /root && {bare.line}", timeout=300)
    sys.stdout.write(f"from the one line to a patched kernel: {time.monotonic() - start:.1f} s\n")
    assert bare.livepatches() == wanted
    assert bare.hole() == "EOPNOTSUPP"
    assert bare.command("status", "--exit-code")
    assert bare.vm.sh("systemctl is-enabled kmend-shutdown.service && systemctl is-active kmend-shutdown.service").text
    changed = bare.vm.sh("dpkg --verify kmend", check=False).text.splitlines()
    assert [row for row in changed if "/usr/share/" not in row] == []  # the lab's userland leaves documents out

    boot = bare.vm.boot_id
    bare.install_newer()
    assert bare.command("--version") == "kmend 99.0\n"
    assert (bare.livepatches(), bare.vm.boot_id) == (wanted, boot)
    assert bare.command("status", "--exit-code")
    assert "unload" not in bare.command("history")

    said = bare.apt("remove", "kmend")
    assert f"{bare.published.names[-1]} stays in force until the next restart of this host" in said
    assert bare.livepatches() == wanted
    assert bare.vm.sh("command -v kmend || test -e /usr/lib/kmend", check=False).status == 1
    assert bare.vm.sh("ls /etc/kmend/root.json /var/lib/kmend/history.jsonl").text

    said = bare.apt("purge", "kmend", environment="KMEND_PURGE_REMOVE_AFTER=3")
    assert f"{bare.published.names[-1]} is off" in said
    assert bare.livepatches() == {}
    assert bare.hole() == "answered"
    assert bare.vm.sh("ls -d /etc/kmend /var/lib/kmend /run/kmend 2>/dev/null", check=False).text == ""
    bare.vm.sh("for i in $(seq 300); do grep -q ^kmend_ /proc/modules || exit 0; sleep 0.1; done; exit 1", timeout=60)
    assert (
        bare.vm.sh(
            "find /etc/systemd /lib/systemd /usr/share /usr/lib/kmend -name '*kmend*' 2>/dev/null", check=False
        ).text
        == ""
    )


@pytest.mark.slow
def test_removed_and_installed_again(bare: PackagedHost) -> None:
    """The level was still being tried; it is neither lost nor taken for one that crashed the host."""
    bare.vm.sh(f"cd /root && {bare.line}", timeout=300)
    wanted = bare.livepatches()
    bare.apt("remove", "kmend")
    bare.vm.power_off()
    bare.vm.start()
    assert bare.livepatches() == {}
    bare.vm.sh(f"cd /root && {bare.line}", timeout=300)
    assert bare.livepatches() == wanted
    assert json.loads(bare.command("quarantine", "--json"))["entries"] == []
    assert "was removed from this host" in bare.command("history")


@pytest.mark.slow
def test_changed_configuration_survives_an_upgrade_without_a_question(bare: PackagedHost) -> None:
    bare.vm.sh(f"cd /root && {bare.line}", timeout=300)
    bare.vm.sh("echo '[timing]\nsoak = 17' >> /etc/kmend/agent.toml && systemctl disable kmend-shutdown.service")
    bare.install_newer()
    assert bare.vm.sh("grep -c 'soak = 17' /etc/kmend/agent.toml").text == "1\n"
    assert bare.vm.sh("systemctl is-enabled kmend-shutdown.service", check=False).text == "disabled\n"
    assert bare.livepatches() == {bare.published.names[-1]: ("1", "0")}


@pytest.mark.slow
def test_upgrade_while_a_transition_is_under_way(bare: PackagedHost) -> None:
    """The agent leaves the transition to the kernel at once; the upgrade comes in between; the new agent goes on from there."""
    bare.vm.sh(f"cd /root && {bare.line} --no-update", timeout=300)
    bare.vm.sh("printf '[timing]\\ntransition = 0\\n' > /etc/kmend/agent.toml.d/20-impatient.toml")
    bare.vm.put(bare.newer, "/root/newer.deb")
    bare.vm.sh("kmend update; dpkg -i /root/newer.deb >/dev/null 2>&1", timeout=300)
    bare.vm.sh("rm /etc/kmend/agent.toml.d/20-impatient.toml")
    assert bare.command("--version") == "kmend 99.0\n"
    bare.command("update")
    assert bare.livepatches() == {bare.published.names[-1]: ("1", "0")}


@pytest.mark.slow
def test_changed_package_or_root_is_refused(bare: PackagedHost, offered: tuple[int, str, Path]) -> None:
    folder = offered[2].parents[1] / "repository/install"
    for path in folder.glob("*"):
        whole = path.read_bytes()
        path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
        try:
            done = bare.vm.sh(f"cd /root && {bare.line}", timeout=120, check=False)
            assert done.status != 0
            if path.name != "install.sh":
                assert "is not the file that this script was made for; nothing was changed" in done.stderr.decode()
        finally:
            path.write_bytes(whole)
        assert bare.vm.sh("ls -d /etc/kmend /usr/bin/kmend 2>/dev/null", check=False).text == ""
    bare.vm.sh("mkdir /etc/kmend && echo other > /etc/kmend/root.json")
    done = bare.vm.sh(f"cd /root && {bare.line}", timeout=120, check=False)
    assert "is another publisher's, or an older one; nothing was changed" in done.stderr.decode()
    assert bare.vm.sh("cat /etc/kmend/root.json; ls /etc/kmend").text == "other\nroot.json\n"
