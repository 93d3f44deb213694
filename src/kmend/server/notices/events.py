"""What people can be told of."""

from __future__ import annotations

import enum


class Event(str, enum.Enum):
    """A kind of notice; channels choose among them by these words."""

    ROLLOUT_HALTED = "rollout.halted"
    ROLLOUT_FINISHED = "rollout.finished"
    ROLLOUT_LATE_FAILURE = "rollout.late-failure"
    ROLLOUT_AWAITING_APPROVAL = "rollout.awaiting-approval"
    ROLLOUT_STALLED = "rollout.stalled"
    RECALL_PUBLISHED = "recall.published"
    HOST_CLONED = "host.cloned"
    HOST_SILENT = "host.silent"
    REPOSITORY_STALE = "repository.stale"
    KEY_EXHAUSTED = "key.exhausted"
    CVES_IMPORTED = "cves.imported"
    CVE_EXPLOITED = "cve.exploited"
    TEST = "channel.test"
