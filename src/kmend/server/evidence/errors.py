"""Why a pack of evidence was not made, cannot be read, or does not prove what it says."""

from __future__ import annotations

from kmend.core.errors import KmendError


class EvidenceError(KmendError):
    """Base: something is wrong with a pack, or with making one."""

    kind = "evidence"


class PackDamagedError(EvidenceError):
    """A file is no pack, or not whole, or not as a pack is written."""

    kind = "pack-damaged"
    default_hint = "take it anew from the server, or from whoever has countersigned it"


class PeriodError(EvidenceError):
    """The period makes no sense."""

    kind = "period"
    exit_status = 2
    default_hint = "give --from and --to as dates, --to not before --from"


class PackBusyError(EvidenceError):
    """Another pack is being made."""

    kind = "pack-busy"
    exit_status = 2
    default_hint = "try again in some minutes"


class InventoryError(EvidenceError):
    """A list of machines cannot be taken in; nothing was changed."""

    kind = "inventory"
    exit_status = 2
    default_hint = (
        "a CSV with the columns name, machine, address, owner, scope; or a JSON list of objects with these members"
    )
