"""KVM or emulation: KVM is used only on a host where a guest has really come up with it since the host's last boot.

`/dev/kvm` may exist and hang (nested virtualisation that is only half there), so the trial boot has a time limit of its own
and its verdict is remembered until the host reboots.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kmend.core import document
from kmend.core.cache import cache_root, locked
from kmend.core.durable import write_durably
from kmend.core.errors import KmendError, MalformedError

TRIAL_SECONDS = 15.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Trial:
    """What a trial boot showed.

    Attributes:
        boot_id: of the host's boot during which it was made.
        accelerator: `kvm` or `tcg`.
        reason: why, for people.
    """

    boot_id: str
    accelerator: str
    reason: str


def decide(remembered: Trial | None, boot_id: str, accessible: bool) -> Trial | None:
    """What is known without a trial: an earlier verdict of this boot, or that there is no KVM; None calls for a trial."""
    if not accessible:
        return Trial(boot_id, "tcg", "/dev/kvm is not there or may not be used")
    return remembered if remembered is not None and remembered.boot_id == boot_id else None


def choose(trial_boot: Callable[[float], None]) -> str:
    """The accelerator to use: `kvm` or `tcg`.

    Args:
        trial_boot: boots a small guest with KVM within the seconds it is given, or raises a KmendError.
    """
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    kept = cache_root() / "lab" / "accelerator.json"
    accessible = os.access("/dev/kvm", os.R_OK | os.W_OK)
    known = decide(_remembered(kept), boot_id, accessible)
    if known is None:
        with locked(kept.with_suffix(".lock")):
            known = decide(_remembered(kept), boot_id, accessible)
            if known is None:
                known = _try(boot_id, trial_boot)
                write_durably(kept, document.encode(known))
    return known.accelerator


def _try(boot_id: str, trial_boot: Callable[[float], None]) -> Trial:
    try:
        trial_boot(TRIAL_SECONDS)
    except KmendError as problem:
        _logger.info("KVM cannot be used, emulating: %s", problem.message.splitlines()[0])
        return Trial(boot_id, "tcg", problem.message.splitlines()[0])
    return Trial(boot_id, "kvm", "a trial boot succeeded")


def _remembered(kept: Path) -> Trial | None:
    try:
        return document.decode(Trial, kept.read_bytes(), max_bytes=65536)
    except (OSError, MalformedError):
        return None
