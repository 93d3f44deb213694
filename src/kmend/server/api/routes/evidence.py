"""Evidence: packs for auditors, and the inventory that the fleet is held against."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

import msgspec
from litestar import Router, get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from litestar.response import Stream

from kmend.server.access.permissions import Caller, Permission
from kmend.server.api.guarding import needs
from kmend.server.api.paging import MAX_LIMIT
from kmend.server.api.services import Services
from kmend.server.evidence import inventory, making
from kmend.server.evidence.documents import Machine
from kmend.server.evidence.gathering import Wanted


class CoverageView(msgspec.Struct, frozen=True):
    """How much of the inventory has an agent now.

    Attributes:
        machines: in the inventory.
        enrolled: of them those whose host is enrolled.
        without: the first five hundred of the others.
    """

    machines: int
    enrolled: int
    without: tuple[Machine, ...]


@get("/evidence/pack", opt=needs(Permission.AUDIT), sync_to_thread=True)
def make_pack(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    since: Annotated[int, QueryParameter(name="from", ge=0, le=2**40)],
    until: Annotated[int, QueryParameter(name="to", ge=0, le=2**40)],
    ring: Annotated[str, QueryParameter(max_length=100)] = "",
) -> Stream:
    """A signed pack of evidence of a period (seconds since 1970-01-01 UTC; `to` is not part of it): kmend-server evidence verify.

    The audit log records who asked for it.
    """
    now = services.clock()
    with services.store.read() as connection:
        making.check(connection, since, until, ring, now)
    wanted = Wanted(services.server_id, since, until, ring, caller.actor, now, services.config.retention.reports)
    pieces = making.stream(services.store, services.config, wanted)
    headers = {"content-disposition": 'attachment; filename="evidence.tar"'}
    return Stream(pieces, media_type="application/x-tar", headers=headers)


@get("/inventory", opt=needs(Permission.AUDIT), sync_to_thread=True)
def list_inventory(
    services: NamedDependency[Services],
    limit: Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT)] = 100,
    skip: Annotated[int, QueryParameter(ge=0, le=2**31)] = 0,
) -> tuple[Machine, ...]:
    """Machines of the inventory, in the order of their names, with the enrolled host that each is."""
    with services.store.read() as connection:
        return tuple(islice(inventory.listing(connection), skip, skip + limit))


@get("/inventory/coverage", opt=needs(Permission.AUDIT), sync_to_thread=True)
def show_coverage(services: NamedDependency[Services]) -> CoverageView:
    """How much of the inventory has an agent, and which machines have none."""
    machines = enrolled = 0
    without: list[Machine] = []
    with services.store.read() as connection:
        for machine in inventory.listing(connection):
            machines += 1
            enrolled += bool(machine.host)
            if not machine.host and len(without) < MAX_LIMIT:
                without.append(machine)
    return CoverageView(machines, enrolled, tuple(without))


router = Router("/", tags=["evidence"], route_handlers=[make_pack, list_inventory, show_coverage])
