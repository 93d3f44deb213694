"""From enrolment to a patched host and back, with the real server and the real agent; only the kernel is simulated."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from typing import Any

from tests.e2e.conftest import Member
from tests.e2e.served import Served
from tests.unit.sample_livepatch import BUILD_ID, fix

from kmend.agent.identity import Credentials
from kmend.core.document import encode
from kmend.server.rollouts.plan import Plan, Stage

Join = Callable[..., Member]
STAGE = Stage("default", soak_seconds=0, sample=1, silence_seconds=3600)


def _roll_out(served: Served, level: int, *stages: Stage, name: str = "a") -> str:
    """Begin a rollout of a level that is published; its ID."""
    plan = served.folder / "plan.json"
    plan.write_bytes(encode(Plan(stages or (STAGE,))))
    served.wait_for_level(level)
    served.command("plans", "put", name, str(plan), "--json")
    made = served.command(
        "rollouts", "create", f"level {level}", "--plan", name, "--target", f"{BUILD_ID}={level}", "--start", "--json"
    )
    return str(made["id"])


def _show(served: Served, host: Member) -> dict[str, Any]:
    identity = Credentials(host.paths).identity()
    assert identity is not None
    shown: dict[str, Any] = served.command("hosts", "show", identity.host, "--json")
    return shown


def test_a_level_reaches_a_host_by_a_rollout_alone(served: Served, join: Join) -> None:
    served.publish(1)
    host = join("web-1")
    host.look()
    host.look()
    assert host.kernel.active() == [], "it is published, and nobody has offered it"
    assert host.run("status", "--exit-code") == 0, "the host runs what it is meant to run"
    assert host.run("update") == 0
    assert host.kernel.active() == []

    rollout = _roll_out(served, 1)
    host.look()
    assert [name.split("_")[1] for name in host.kernel.active()] == ["1"]
    host.look()
    assert _show(served, host)["phase"] == "soaking"
    host.soak()
    host.look()
    shown = _show(served, host)
    assert (shown["level"], shown["phase"]) == (1, "steady")
    host.look()
    served.wait_until(lambda: served.command("rollouts", "show", rollout, "--json")["status"] == "finished")
    late = join("web-2")
    late.look()
    assert [name.split("_")[1] for name in late.kernel.active()] == ["1"], "a new host has it at once"
    export = served.folder / "audit"
    export.write_text(served.run("audit", "export").stdout)
    assert served.run("audit", "verify", str(export)).returncode == 0


def test_a_person_on_the_host_passes_over_the_server(served: Served, join: Join) -> None:
    served.publish(1)
    host = join("web-1")
    host.look()
    assert host.run("update", "--level", "1") == 0
    assert len(host.kernel.active()) == 1


def test_a_recall_reaches_a_host_through_the_server(served: Served, join: Join) -> None:
    served.publish(1)
    host = join("web-1")
    _roll_out(served, 1)
    host.look()
    host.look()
    assert len(host.kernel.active()) == 1
    served.recall(fix=fix("CVE-2026-1001").digest)
    served.wait_until(lambda: bool(served.command("recalls", "--json")))
    host.look()
    assert host.kernel.active() == []


def test_a_clone_becomes_a_host_of_its_own(served: Served, join: Join, capsys: Any) -> None:
    host = join("web-1")
    host.look()
    twin = join("web-2", enrolled=False)
    shutil.rmtree(twin.paths.fetched, ignore_errors=True)
    shutil.copytree(host.paths.fetched, twin.paths.fetched)
    shutil.copytree(host.paths.config, twin.paths.config, dirs_exist_ok=True)
    (twin.paths.run / "machine").write_text("f" * 64)  # what root's commands leave on another machine
    twin.look()
    mine, other = Credentials(host.paths).identity(), Credentials(twin.paths).identity()
    assert mine is not None
    assert other is not None
    assert (other.parent, other.host != mine.host) == (mine.host, True)
    assert _show(served, twin)["parent"] == mine.host
    host.look()
    assert _show(served, host)["state"] == "enrolled"


def test_a_host_goes_on_through_restarts_and_lost_state(served: Served, join: Join) -> None:
    host = join("web-1")
    host.look()
    served.stop(signal.SIGKILL)
    assert host.look() > 0, "it tries again later"
    served.start()
    host.look()
    (host.paths.fetched / "counter.json").unlink()  # as from a backup
    host.look()
    (host.paths.fetched / "acknowledged.json").write_text("torn")
    (host.paths.fetched / "offer.json").write_text("\0\0")
    host.look()
    assert _show(served, host)["state"] == "enrolled"
    served.command("hosts", "decommission", _show(served, host)["id"], "--json")
    host.look()
    fetch = json.loads((host.paths.service / "fetch").read_text())
    assert fetch["kind"] == "server"
    assert "decommissioned" in fetch["message"]
