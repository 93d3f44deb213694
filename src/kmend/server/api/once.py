"""Doing a thing once, however often it is asked for: the header `Idempotency-Key`.

The answer is kept in the very transaction that does the thing, so either both are there or neither is. Secrets are left out of
what is kept: who asks again learns that it was done, and not the secret a second time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import msgspec
from litestar import Response
from litestar.params import HeaderParameter
from sqlalchemy import Connection, insert, select

from kmend.core.errors import KmendError
from kmend.core.manifest import sha256_hex
from kmend.server.access.permissions import Caller
from kmend.server.api.services import Services
from kmend.server.store.tables import idempotency

Key = Annotated[
    str,
    HeaderParameter(
        name="Idempotency-Key",
        max_length=200,
        pattern=r"^[\x21-\x7e]*$",
        description="The same request with the same key is done once, and answered the same for two days.",
    ),
]
REPLAYED = "idempotent-replayed"


class IdempotencyError(KmendError):
    """The key was used for another request before."""

    kind: ClassVar[str] = "idempotency"
    exit_status = 2
    default_hint: ClassVar[str] = "take another key for another request"


def act(
    services: Services,
    caller: Caller,
    key: str,
    what: Sequence[object],
    work: Callable[[Connection, int], object],
    *,
    status: int = 200,
    secret: Sequence[str] = (),
) -> Response[Any]:
    """Do `work` in a transaction, once for each key.

    Args:
        key: empty if none was given; then it is simply done.
        what: the request: what it does, and with what; another request with the same key is refused.
        work: from a connection and the time to the answer.
        secret: members of the answer that are not kept.

    Raises:
        IdempotencyError: the key belongs to another request.
    """
    digest = sha256_hex(msgspec.json.encode(list(what), order="deterministic"))

    def once(connection: Connection) -> tuple[bytes, bool]:
        now = services.clock()
        if not key:
            return msgspec.json.encode(work(connection, now)), False
        table = idempotency.c
        row = connection.execute(select(idempotency).where(table.token == caller.id, table.key == key)).first()
        if row is not None:
            if row.request != digest:
                raise IdempotencyError("this Idempotency-Key was used for another request")
            return bytes(row.answer), True
        answer = msgspec.json.encode(work(connection, now))
        kept = msgspec.json.encode({**msgspec.json.decode(answer), **dict.fromkeys(secret, "")}) if secret else answer
        values = {"token": caller.id, "key": key, "request": digest, "status": status, "answer": kept, "at": now}
        connection.execute(insert(idempotency).values(**values))
        return answer, False

    answer, replayed = services.store.transact(once)
    headers = {REPLAYED: "true"} if replayed else {}
    return Response(answer, status_code=status, media_type="application/json", headers=headers)
