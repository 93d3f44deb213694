"""Verifying recalls: a role of its own, whose keys the trust root names in a member of ours (docs/decisions/0018-recall-role.md).

`metadata/<version>.recall.json` has the form of TUF metadata; the snapshot names its version, so a recall cannot be hidden or
rolled back any more than a level can. It never expires.
"""

from __future__ import annotations

from typing import Any

from tuf.api.metadata import DelegatedRole, Delegations, Key, Metadata, Root, Snapshot, Targets

from kmend.core.document import from_plain
from kmend.core.errors import MalformedError
from kmend.core.recall import Recalls
from kmend.trust.errors import MismatchError
from kmend.trust.translation import UNREADABLE

ROOT_FIELD = "x-kmend-recall"
"""Member of our root metadata: `keys` (by key ID), `keyids`, `threshold`."""
SIGNED_FIELD = "x-kmend-recalls"
ROLE = "recall"
META_NAME = "recall.json"
MAX_RECALL_BYTES = 1024 * 1024


def stated_version(snapshot: Snapshot) -> int:
    """The version that the snapshot names; 0 if there has never been a recall."""
    meta = snapshot.meta.get(META_NAME)
    return meta.version if meta is not None else 0


def delegator(root: Root) -> Targets | None:
    """What says who may sign recalls; None if the trust root names nobody.

    Raises:
        MismatchError: it names them in a form that cannot be read.
    """
    field: Any = root.unrecognized_fields.get(ROOT_FIELD)
    if field is None:
        return None
    try:
        keyids = [str(keyid) for keyid in field["keyids"]]
        keys = {keyid: Key.from_dict(keyid, dict(field["keys"][keyid])) for keyid in keyids}
        role = DelegatedRole(ROLE, keyids, int(field["threshold"]), terminating=True, paths=[])
        return Targets(delegations=Delegations(keys, roles={ROLE: role}))
    except (KeyError, ValueError, TypeError, AttributeError) as problem:
        raise MismatchError(f"the trust root does not say who may recall: {problem}") from None


def read_recalls(content: bytes, root: Root, version: int) -> Recalls:
    """The recalls in signed metadata.

    Args:
        version: as the snapshot names it.

    Raises:
        MismatchError: not signed by who may, of another version, or not recalls at all.
    """
    try:
        metadata = Metadata[Targets].from_bytes(content)
        signers = delegator(root)
        if signers is None:
            raise MismatchError("there are recalls, and the trust root names nobody who may sign them")
        signers.verify_delegate(ROLE, metadata.signed_bytes, metadata.signatures)
        if metadata.signed.version != version:
            raise MismatchError(f"the recalls are of version {metadata.signed.version}; the snapshot names {version}")
        recalls = from_plain(Recalls, metadata.signed.unrecognized_fields.get(SIGNED_FIELD))
    except MalformedError as problem:
        raise MismatchError(f"the recalls cannot be read: {problem.message}", hint=problem.hint) from None
    except UNREADABLE as problem:
        raise MismatchError(f"the recalls are not signed by who may recall: {problem}") from None
    if recalls.version != version:
        raise MismatchError("the recalls do not say what their signed metadata says of them")
    return recalls
