"""What cannot be done with rollouts."""

from __future__ import annotations

from typing import ClassVar

from kmend.core.errors import KmendError


class RolloutError(KmendError):
    """It cannot be done."""

    kind: ClassVar[str] = "rollout"
    exit_status = 2


class PlanError(RolloutError):
    """A plan makes no sense; the message names stage and member."""

    kind: ClassVar[str] = "plan"


class RolloutStateError(RolloutError):
    """Not in the state in which the rollout is."""

    kind: ClassVar[str] = "rollout-state"


class RegressionError(RolloutError):
    """The level lacks fixes that hosts of these rings have."""

    kind: ClassVar[str] = "regression"


class NoRolloutError(RolloutError):
    """There is no such rollout, plan or level, or the caller may not know of it."""

    kind: ClassVar[str] = "not-found"
