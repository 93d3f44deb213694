"""Rollouts and their plans. Every act has an actor and a reason, and stands in the audit log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

from litestar import Response, Router, delete, get, post, put
from litestar.di import NamedDependency
from litestar.params import JSONBody, PathParameter, QueryParameter
from litestar.response import Stream
from msgspec import Meta
from sqlalchemy import Connection

from kmend.server.access.permissions import Caller, Permission, may_all
from kmend.server.api import bodies, paging
from kmend.server.api.exporting import Format, export
from kmend.server.api.guarding import needs
from kmend.server.api.once import Key, act
from kmend.server.api.paging import Cursor, Limit, Page
from kmend.server.api.services import Services
from kmend.server.rollouts import acts, records, telling
from kmend.server.rollouts.engine import Grant
from kmend.server.rollouts.errors import NoRolloutError
from kmend.server.rollouts.plan import MAX_STAGES
from kmend.server.rollouts.records import Rollout
from kmend.server.rollouts.telling import PlanView, RolloutView

RolloutId = Annotated[str, PathParameter(max_length=64)]
PlanName = Annotated[str, PathParameter(max_length=100)]


class Promotion(bodies.Because, frozen=True):
    """Which stage is taken for passed, and why.

    Attributes:
        stage: its number, from 0; if another one is open by now, nothing is done.
    """

    stage: Annotated[int, Meta(ge=0, le=MAX_STAGES - 1)]


def _sees(caller: Caller, rings: Sequence[str]) -> bool:
    return any(caller.sees(ring) for ring in rings)


def _cut(caller: Caller, view: RolloutView) -> RolloutView:
    """A rollout without the hosts of rings that are not the caller's."""
    rings = {stage.number: stage.ring for stage in view.stages}
    kept = tuple(failure for failure in view.failures if caller.sees(rings.get(failure.stage, "")))
    return dataclasses.replace(view, failures=kept)


def visible(connection: Connection, caller: Caller, rollout: str) -> Rollout:
    """A rollout that the caller may know of.

    Raises:
        NoRolloutError: there is none, or it concerns no ring of the caller's.
    """
    found = records.load(connection, rollout)
    if not _sees(caller, found.plan.rings):
        raise NoRolloutError(f"there is no rollout {rollout[:40]!r}", hint="kmend-server rollouts list")
    return found


@get("/rollouts", opt=needs(Permission.READ), sync_to_thread=True)
def list_rollouts(
    services: NamedDependency[Services], caller: NamedDependency[Caller], limit: Limit = 50, cursor: Cursor = ""
) -> Page[RolloutView]:
    """Rollouts, the newest first."""
    after = paging.read_timed(cursor)
    with services.store.read() as connection:
        found = telling.page(connection, services.clock(), after=after, limit=limit)
    end = paging.write_cursor(found[-1].created_at, found[-1].id) if len(found) == limit else ""
    return Page(tuple(_cut(caller, view) for view in found if _sees(caller, view.plan.rings)), end)


@post("/rollouts", opt=needs(Permission.ROLLOUTS), sync_to_thread=True, status_code=201)
def create_rollout(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    data: JSONBody[bodies.NewRollout],
    key: Key = "",
) -> Response[Any]:
    """Make a rollout by a plan that is kept; every ring of the plan must be the caller's."""

    def work(connection: Connection, now: int) -> RolloutView:
        plan = acts.read_plan(connection, data.plan)
        may_all(caller, Permission.ROLLOUTS, plan.rings)
        made = acts.create(
            connection, name=data.name, plan=plan, targets=data.targets, actor=caller.actor, now=now,
            emergency=data.emergency, return_soaking=data.return_soaking,
        )  # fmt: skip
        if data.start:
            acts.start(connection, made.id, actor=caller.actor, now=now)
        return telling.show(connection, made.id, now)

    return act(services, caller, key, ["rollout", data], work, status=201)


@get("/rollouts/{rollout:str}", opt=needs(Permission.READ), sync_to_thread=True)
def show_rollout(
    services: NamedDependency[Services], caller: NamedDependency[Caller], rollout: RolloutId
) -> RolloutView:
    """One rollout: how far it is, who failed, and why."""
    with services.store.read() as connection:
        visible(connection, caller, rollout)
        return _cut(caller, telling.show(connection, rollout, services.clock()))


@get("/rollouts/{rollout:str}/grants", opt=needs(Permission.READ), sync_to_thread=True)
def grants_of_rollout(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    rollout: RolloutId,
    form: Annotated[Format, QueryParameter(name="format")] = Format.NDJSON,
) -> Stream:
    """Every host that was granted, with what became of it, as NDJSON or CSV."""
    with services.store.read() as connection:
        rings = {stage.number: stage.ring for stage in visible(connection, caller, rollout).stages}
        found = [grant for grant in telling.grants(connection, rollout) if caller.sees(rings.get(grant.stage, ""))]

    def pages() -> Iterator[Sequence[Grant]]:
        yield from (found[begin : begin + 500] for begin in range(0, len(found), 500))

    return export(pages, form, [field.name for field in dataclasses.fields(Grant)], "grants")


def _act(
    services: Services,
    caller: Caller,
    rollout: str,
    key: str,
    permission: Permission,
    word: str,
    reason: str,
    change: Callable[[Connection, int], object],
    *more: object,
) -> Response[Any]:
    def work(connection: Connection, now: int) -> RolloutView:
        found = visible(connection, caller, rollout)
        may_all(caller, permission, found.plan.rings)
        change(connection, now)
        return telling.show(connection, rollout, now)

    return act(services, caller, key, [word, rollout, reason, *more], work)


@post("/rollouts/{rollout:str}/start", opt=needs(Permission.ROLLOUTS), sync_to_thread=True, status_code=200)
def start_rollout(
    services: NamedDependency[Services], caller: NamedDependency[Caller], rollout: RolloutId, key: Key = ""
) -> Response[Any]:
    """Begin; where an approval is needed first, wait for it."""
    return _act(
        services, caller, rollout, key, Permission.ROLLOUTS, "start", "",
        lambda connection, now: acts.start(connection, rollout, actor=caller.actor, now=now),
    )  # fmt: skip


@post("/rollouts/{rollout:str}/approve", opt=needs(Permission.APPROVE), sync_to_thread=True, status_code=200)
def approve_rollout(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    rollout: RolloutId,
    data: JSONBody[bodies.Because],
    key: Key = "",
) -> Response[Any]:
    """Approve the stage that waits; not by whoever made the rollout, and each person counts once."""
    return _act(
        services, caller, rollout, key, Permission.APPROVE, "approve", data.reason,
        lambda connection, now: acts.approve(connection, rollout, actor=caller.actor, reason=data.reason, now=now),
    )  # fmt: skip


@post("/rollouts/{rollout:str}/pause", opt=needs(Permission.ROLLOUTS), sync_to_thread=True, status_code=200)
def pause_rollout(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    rollout: RolloutId,
    data: JSONBody[bodies.Because],
    key: Key = "",
) -> Response[Any]:
    """Grant nobody any more until it is resumed; hosts on their way go on."""
    return _act(
        services, caller, rollout, key, Permission.ROLLOUTS, "pause", data.reason,
        lambda connection, now: acts.pause(connection, rollout, actor=caller.actor, reason=data.reason, now=now),
    )  # fmt: skip


@post("/rollouts/{rollout:str}/resume", opt=needs(Permission.ROLLOUTS), sync_to_thread=True, status_code=200)
def resume_rollout(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    rollout: RolloutId,
    data: JSONBody[bodies.Because],
    key: Key = "",
) -> Response[Any]:
    """Go on after a pause or a halt; the failures so far are forgiven, and named in the audit log."""
    return _act(
        services, caller, rollout, key, Permission.ROLLOUTS, "resume", data.reason,
        lambda connection, now: acts.resume(connection, rollout, actor=caller.actor, reason=data.reason, now=now),
    )  # fmt: skip


@post("/rollouts/{rollout:str}/abort", opt=needs(Permission.ROLLOUTS), sync_to_thread=True, status_code=200)
def abort_rollout(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    rollout: RolloutId,
    data: JSONBody[bodies.Because],
    key: Key = "",
) -> Response[Any]:
    """End it for good; hosts that soak its level are sent back, if the rollout says so and they allow it."""
    return _act(
        services, caller, rollout, key, Permission.ROLLOUTS, "abort", data.reason,
        lambda connection, now: acts.abort(connection, rollout, actor=caller.actor, reason=data.reason, now=now),
    )  # fmt: skip


@post("/rollouts/{rollout:str}/promote", opt=needs(Permission.ROLLOUTS), sync_to_thread=True, status_code=200)
def promote_rollout(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    rollout: RolloutId,
    data: JSONBody[Promotion],
    key: Key = "",
) -> Response[Any]:
    """Take the open stage for passed, and open the next."""
    return _act(
        services, caller, rollout, key, Permission.ROLLOUTS, "promote", data.reason,
        lambda connection, now: acts.promote(
            connection, rollout, actor=caller.actor, reason=data.reason, now=now, stage=data.stage
        ),
        data.stage,
    )  # fmt: skip


@get("/plans", opt=needs(Permission.READ), sync_to_thread=True)
def list_plans(services: NamedDependency[Services], caller: NamedDependency[Caller]) -> tuple[PlanView, ...]:
    """Plans that are kept."""
    with services.store.read() as connection:
        return tuple(view for view in telling.kept_plans(connection) if _sees(caller, view.plan.rings))


@put("/plans/{plan:str}", opt=needs(Permission.PLANS), sync_to_thread=True)
def put_plan(
    services: NamedDependency[Services],
    caller: NamedDependency[Caller],
    plan: PlanName,
    data: JSONBody[bodies.PlanBody],
    key: Key = "",
) -> Response[Any]:
    """Keep a plan under a name; one that is automatic rolls out new levels as they are published."""

    def work(connection: Connection, now: int) -> PlanView:
        acts.put_plan(connection, plan, data.plan, automatic=data.automatic, actor=caller.actor, now=now)
        return next(view for view in telling.kept_plans(connection) if view.name == plan)

    return act(services, caller, key, ["plan", plan, data], work)


@delete("/plans/{plan:str}", opt=needs(Permission.PLANS), sync_to_thread=True)
def remove_plan(services: NamedDependency[Services], caller: NamedDependency[Caller], plan: PlanName) -> None:
    """Forget a plan; rollouts that were made by it keep their own copy."""
    now = services.clock()
    services.store.transact(lambda connection: acts.remove_plan(connection, plan, actor=caller.actor, now=now))


router = Router(
    "/",
    tags=["rollouts"],
    route_handlers=[
        list_rollouts, create_rollout, show_rollout, grants_of_rollout, start_rollout, approve_rollout, pause_rollout,
        resume_rollout, abort_rollout, promote_rollout, list_plans, put_plan, remove_plan,
    ],
)  # fmt: skip
