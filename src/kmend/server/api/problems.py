"""Errors as problem documents (RFC 9457): `type` is `urn:kmend:problem:<word>`, and no word ever changes its meaning."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from sqlalchemy.exc import DataError, IntegrityError

from kmend.core.errors import KmendError, MalformedError
from kmend.server.access.errors import UnauthenticatedError
from kmend.server.operations import metrics
from kmend.server.store import StoreError

URN = "urn:kmend:problem:"
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = "5"
_logger = logging.getLogger(__name__)
_STATUSES = {
    "unauthenticated": 401,
    "forbidden": 403,
    "not-found": 404,
    "not-known": 404,
    "conflict": 409,
    "rollout-state": 409,
    "regression": 409,
    "idempotency": 409,
    "pack-busy": 409,
    "system": 500,
}
"""Of our own errors by their kind; others of the caller's are 400, and those of the database 503."""
_WORDS = {400: "invalid", 401: "unauthenticated", 403: "forbidden", 404: "not-found", 405: "method", 406: "not-acceptable",
          413: "too-large", 415: "media-type", 422: "invalid", 429: "too-many", 503: "busy"}  # fmt: skip


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an error looks like.

    Attributes:
        hint: what to do next.
        request: the number by which the server's log knows the request.
    """

    type: str
    title: str
    status: int
    detail: str = ""
    hint: str = ""
    request: str = ""


def of_ours(request: Request[Any, Any, Any], problem: KmendError) -> Response[Problem]:
    """An error that was raised on purpose."""
    if isinstance(problem, StoreError):
        _logger.error("%s", problem.message, extra={"problem": problem.kind})
        return _respond(
            request, 503, "busy", "the database does not answer; try again", "", {"retry-after": RETRY_SECONDS}
        )
    status = _STATUSES.get(problem.kind, 400)
    word = problem.kind if not isinstance(problem, MalformedError) else "invalid"
    headers = {"www-authenticate": 'Bearer realm="kmend"'} if isinstance(problem, UnauthenticatedError) else {}
    return _respond(request, status, word, problem.message, problem.hint, headers)


def of_http(request: Request[Any, Any, Any], problem: HTTPException) -> Response[Problem]:
    """An error of HTTP itself, or a body that does not have the form that it must have."""
    detail = str(problem.detail)
    extra = problem.extra
    if problem.status_code == 400 and isinstance(extra, list):
        told = [f"{item.get('key', '')}: {item.get('message', '')}" for item in extra if isinstance(item, dict)]
        detail = "; ".join(told)[:500] or detail
    headers = {
        name: value for name, value in (problem.headers or {}).items() if name.lower() in ("allow", "retry-after")
    }
    if problem.status_code >= 500:
        detail = ""
    return _respond(request, problem.status_code, _WORDS.get(problem.status_code, "http"), detail, "", headers)


def of_conflict(request: Request[Any, Any, Any], problem: IntegrityError) -> Response[Problem]:
    """Two did the same at once, and a rule of the database let one of them."""
    _logger.info("a rule of the database was in the way: %s", type(problem.orig).__name__)
    return _respond(
        request, 409, "conflict", "somebody else has just changed the same", "look again, and try again", {}
    )


def of_data(request: Request[Any, Any, Any], problem: DataError) -> Response[Problem]:
    """A value that the database cannot hold: a NUL in a text, on PostgreSQL."""
    _logger.info("the database cannot hold a value: %s", type(problem.orig).__name__)
    return _respond(request, 400, "invalid", "a value in the request cannot be looked up or kept", "", {})


def of_depth(request: Request[Any, Any, Any], problem: RecursionError) -> Response[Problem]:
    """A document that is nested without end."""
    return _respond(request, 400, "invalid", "the document is nested too deeply", "", {})


def unforeseen(request: Request[Any, Any, Any], problem: Exception) -> Response[Problem]:
    """A mistake of ours: the log has it, the answer only its number."""
    _logger.error("a request failed in a way that nobody foresaw", exc_info=problem)
    return _respond(request, 500, "internal", "the server has made a mistake; its log tells more", "", {})


def _respond(
    request: Request[Any, Any, Any], status: int, word: str, detail: str, hint: str, headers: dict[str, str]
) -> Response[Problem]:
    metrics.refusals.labels(area="api", problem=word).inc()
    number = str(request.scope.get("state", {}).get("request_id", ""))
    problem = Problem(
        type=URN + word, title=word.replace("-", " "), status=status, detail=_plain(detail), hint=hint, request=number
    )
    return Response(problem, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)[:1000]
