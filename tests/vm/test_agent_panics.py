"""Livepatches that panic the kernel: at the load, and later. The guard holds over the reboot, and lifts by a person's word."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.fixmaker import Edit, FixMaker
from tests.vm.published import ROOT, Published, publish_third
from tests.vm.test_agent import AGENT, CONFIG, Host

from kmend import lab

AT_LOAD = """
#include <linux/livepatch.h>

static int __used kmend_pre_patch(struct klp_object *object)
{
	panic("this livepatch panics at the load");
	return 0;
}
"""
LATER = """
#include <linux/livepatch.h>
#include <linux/kthread.h>
#include <linux/delay.h>

static int kmend_doom(void *unused)
{
	msleep(SECONDS * 1000);
	panic("this livepatch panics later");
	return 0;
}

static void __used kmend_post_patch(struct klp_object *object)
{
	kthread_run(kmend_doom, NULL, "kmend_doom");
}
"""


def publish_level_3(published: Published, maker: FixMaker, folder: Path, name: str, text: str) -> Path:
    """A copy of the repository with one level more, whose newest fix is `text` at the end of a file."""
    return publish_third(published, maker, folder / name, Edit("fs/pipe.c", "", text))


@pytest.fixture(scope="module")
def guest(published: Published) -> Iterator[Host]:
    with lab.boot(published.kernel, lab.Shape.FULL) as vm:
        host = Host(vm, published)
        host.install()
        yield host


@pytest.fixture
def host(guest: Host) -> Host:
    if not guest.vm.running:
        guest.vm.start()
    guest.fresh()
    return guest


def offer(host: Host, repository: Path) -> None:
    """Level 1 has soaked, and the repository has a level 3."""
    host.vm.put_bytes(CONFIG.replace("soak = 600", "soak = 1").encode(), "/etc/kmend/agent.toml")
    host.vm.sh("rm -rf /srv/repository")  # that of the test before has another level 3 under the same version
    host.vm.put(host.published.folder / "repository", "/srv/repository")
    host.kmend("update", "--level", "1")
    host.vm.run(["sleep", "2"])
    assert host.status()["state"] in ("steady", "held", "quarantined")
    host.vm.put_bytes(CONFIG.encode(), "/etc/kmend/agent.toml")
    host.vm.sh("rm -rf /srv/repository")
    host.vm.put(repository, "/srv/repository")
    host.vm.sh("sync")


def holds(host: Host) -> None:
    """Over the reboot: level 3 is blamed, level 1 comes back, and neither 3 nor a level with its new fixes is loaded."""
    one = host.published.names[0]
    with pytest.raises(lab.PanicError):
        host.vm.wait_end(180)
    host.vm.start()
    assert host.livepatches() == {}
    host.kmend("boot")
    assert host.livepatches() == {one: ("1", "0")}, "the level that had soaked here"
    document = host.status()
    assert [(entry["level"], entry["cause"]) for entry in document["quarantine"]] == [(3, "crashed")]
    host.kmend("update", status=30)
    host.kmend("status", "--exit-code", status=30)
    assert host.livepatches() == {one: ("1", "0")}


@pytest.mark.slow
def test_panic_at_the_load(host: Host, maker: FixMaker, tmp_path: Path) -> None:
    offer(host, publish_level_3(host.published, maker, tmp_path, "panics-at-load", AT_LOAD))
    host.vm.start_command([AGENT, "update"])
    holds(host)


@pytest.mark.slow
def test_panic_a_minute_later(host: Host, maker: FixMaker, tmp_path: Path) -> None:
    offer(host, publish_level_3(host.published, maker, tmp_path, "panics-later", LATER.replace("SECONDS", "60")))
    host.kmend("update")
    assert host.status()["state"] == "soaking"
    holds(host)


@pytest.mark.slow
def test_boot_unit_loads_before_the_network(host: Host) -> None:
    """The unit of the package: the soaked level is in force when the network comes, and a file keeps it out."""
    unit = (ROOT / "packaging/systemd/kmend-boot.service").read_text().replace("ExecStart=kmend", f"ExecStart={AGENT}")
    host.vm.put_bytes(unit.encode(), "/etc/systemd/system/kmend-boot.service")
    host.vm.put_bytes(CONFIG.replace("soak = 600", "soak = 1").encode(), "/etc/kmend/agent.toml")
    host.vm.wait_settled()
    host.vm.sh("systemctl daemon-reload && systemctl enable kmend-boot.service")
    host.kmend("update", "--level", "1")
    host.vm.run(["sleep", "2"])
    host.kmend("check")
    host.vm.sh("sync")
    host.vm.power_off()
    host.vm.start()
    host.vm.wait_settled()
    assert host.livepatches() == {host.published.names[0]: ("1", "0")}
    when = "systemctl show -p ExecMainExitTimestampMonotonic --value kmend-boot.service"
    target = "systemctl show -p ActiveEnterTimestampMonotonic --value sysinit.target"
    assert int(host.vm.sh(when).text) <= int(host.vm.sh(target).text)
    host.vm.sh("touch /etc/kmend/no-apply && sync")
    host.vm.power_off()
    host.vm.start()
    host.vm.wait_settled()
    assert host.livepatches() == {}
    host.vm.sh("rm /etc/kmend/no-apply; systemctl disable kmend-boot.service")
