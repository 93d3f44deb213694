"""Recalls, as rollouts ask of them: whether a level may be given to anybody (`kmend.core.recall.Recall.concerns`)."""

from __future__ import annotations

import json
import threading
from typing import Any

from sqlalchemy import Connection, Select, select

from kmend.intel.timeline import Recalled
from kmend.server.store.tables import level_fixes, levels, recalls, rollout_targets

MAX_CLEARS = 50_000
"""So many levels' `clears` are remembered; a manifest never changes."""
_clears: dict[tuple[str, int, str], frozenset[str]] = {}
_lock = threading.Lock()


def of_rollout(connection: Connection, rollout: str) -> str:
    """Which level of a rollout is recalled, whole or by a fix that it does not clear; empty for none."""
    targets = rollout_targets.c
    joined = (recalls.c.build_id == targets.build_id) & (recalls.c.level == targets.level)
    whole = (
        select(targets.level, recalls.c.number)
        .join_from(rollout_targets, recalls, joined)
        .where(targets.rollout == rollout, recalls.c.withdrawn_at.is_(None))
    )
    holds = (level_fixes.c.build_id == targets.build_id) & (level_fixes.c.level == targets.level)
    return _first(connection, whole, _by_fix().join(rollout_targets, holds).where(targets.rollout == rollout))


def of_level(connection: Connection, build_id: str, level: int) -> str:
    """Whether a level is recalled, likewise."""
    here = (recalls.c.build_id == build_id) & (recalls.c.level == level)
    whole = select(recalls.c.level, recalls.c.number).where(here, recalls.c.withdrawn_at.is_(None))
    return _first(connection, whole, _by_fix().where(level_fixes.c.build_id == build_id, level_fixes.c.level == level))


def fixes(connection: Connection) -> frozenset[str]:
    """Every fix that is recalled: to lack it is no regression."""
    query = select(recalls.c.fix).where(recalls.c.withdrawn_at.is_(None), recalls.c.fix != "")
    return frozenset(row.fix for row in connection.execute(query))


def history(connection: Connection, build_id: str) -> dict[int, tuple[Recalled, ...]]:
    """Level -> the recalls that it stands or stood under, those of the whole level first."""
    of_levels = select(recalls.c.number, recalls.c.level, recalls.c.at, recalls.c.withdrawn_at)
    found: dict[int, list[Recalled]] = {}
    whole = of_levels.where(recalls.c.build_id == build_id, recalls.c.level > 0).order_by(recalls.c.number)
    for row in connection.execute(whole):
        why = f"level {row.level} is recalled (recall {row.number})"
        found.setdefault(row.level, []).append(Recalled(row.at, row.withdrawn_at, why))
    here = (levels.c.build_id == level_fixes.c.build_id) & (levels.c.level == level_fixes.c.level)
    by_fix = (
        select(recalls, level_fixes.c.level.label("holder"), levels.c.manifest_sha256)
        .join_from(recalls, level_fixes, level_fixes.c.fix == recalls.c.fix)
        .join(levels, here)
        .where(recalls.c.fix != "", level_fixes.c.build_id == build_id)
        .order_by(recalls.c.number)
    )
    for row in connection.execute(by_fix).all():
        if row.fix not in _cleared(connection, build_id, row.holder, row.manifest_sha256):
            why = f"level {row.holder} holds a fix that is recalled (recall {row.number})"
            found.setdefault(row.holder, []).append(Recalled(row.at, row.withdrawn_at, why))
    return {level: tuple(items) for level, items in found.items()}


def _by_fix() -> Select[Any]:
    here = (levels.c.build_id == level_fixes.c.build_id) & (levels.c.level == level_fixes.c.level)
    return (
        select(
            level_fixes.c.build_id,
            level_fixes.c.level,
            level_fixes.c.fix,
            recalls.c.number,
            levels.c.manifest_sha256,
        )
        .join_from(recalls, level_fixes, level_fixes.c.fix == recalls.c.fix)
        .join(levels, here)
        .where(recalls.c.withdrawn_at.is_(None), recalls.c.fix != "")
    )


def _first(connection: Connection, whole: Select[Any], by_fix: Select[Any]) -> str:
    row = connection.execute(whole.limit(1)).first()
    if row is not None:
        return f"level {row.level} is recalled (recall {row.number})"
    for row in connection.execute(by_fix).all():
        if row.fix not in _cleared(connection, row.build_id, row.level, row.manifest_sha256):
            return f"level {row.level} holds a fix that is recalled (recall {row.number})"
    return ""


def _cleared(connection: Connection, build_id: str, level: int, digest: str) -> frozenset[str]:
    known = _clears.get((build_id, level, digest))
    if known is None:
        query = select(levels.c.manifest).where(levels.c.build_id == build_id, levels.c.level == level)
        tree = json.loads(connection.execute(query).scalar_one())  # it was checked when it was imported
        known = frozenset(tree.get("clears", ()))
        with _lock:
            if len(_clears) >= MAX_CLEARS:
                _clears.clear()
            _clears[build_id, level, digest] = known
    return known
