"""From enrolment to a patched host, with the real server and the real agent; only the kernel is simulated."""

from __future__ import annotations

from collections.abc import Callable

from tests.e2e.conftest import Member
from tests.e2e.served import Served


def test_first(served: Served, join: Callable[..., Member]) -> None:
    served.publish(1)
    host = join("web-1")
    host.look()
    print(host.kernel.active(), served.command("hosts", "list", "--json"))
