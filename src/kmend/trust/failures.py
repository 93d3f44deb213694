"""What HTTP statuses and broken connections mean, as errors for people, and which of them may pass by themselves."""

from __future__ import annotations

import datetime
import ssl

import urllib3

from kmend.trust import retrying
from kmend.trust.certificates import certificate_error
from kmend.trust.errors import (
    DeniedError,
    InterceptedError,
    MissingError,
    SlowError,
    TrustError,
    UnreachableError,
)

MISSING_HINT = (
    "check the repository's URL, and that its last publish or the last copy to this mirror came to its end "
    "(a mirror has to copy metadata last, timestamp.json last of all)"
)
_NETWORK_HINT = "check the network, the proxy if there is one, and the repository's URL"
_PROXY_HINT = "set network.proxy_credentials, or network.proxy with user and password"


class PassingError(Exception):
    """An error that may be gone a moment later.

    Args:
        problem: the error to raise if it is not.
        retry_after: seconds that the server wants to be left alone, if it said so.
    """

    def __init__(self, problem: TrustError, retry_after: float | None = None) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.retry_after = retry_after


def of_status(
    where: str, status: int, retry_after: str, date: datetime.datetime | None, now: datetime.datetime
) -> Exception:
    """The error for an HTTP status that brings no file.

    Args:
        where: the URL as it may be shown.
        retry_after: that header, empty if there is none.
        date: the answer's date.
        now: this host's clock.
    """
    text = f"{where}: HTTP status {status}"
    if status in (404, 410):
        return MissingError(text, hint=MISSING_HINT)
    if status == 511:
        return InterceptedError(f"{text} (the network wants a login)")
    problem: UnreachableError
    if status == 407:
        problem = DeniedError(f"{text}: the proxy wants a user and a password, or others", hint=_PROXY_HINT)
    elif status in (401, 403):
        problem = DeniedError(text, hint="the server does not let this host read; ask who runs it")
    else:
        problem = UnreachableError(text, hint="the server has a problem of its own; ask who runs it if it stays so")
    problem.status = status
    if status not in retrying.AGAIN:
        return problem
    return PassingError(problem, retrying.read_retry_after(retry_after, date, now) if retry_after else None)


def of_connection(where: str, problem: BaseException, slow: str) -> Exception:
    """The error for a connection that did not come about, or broke.

    Args:
        where: the URL as it may be shown.
        slow: what to say if it took too long.
    """
    through = ""
    if isinstance(problem, urllib3.exceptions.ProxyError):
        through, problem = "the proxy: ", problem.original_error
        if "407" in str(problem):
            denied = DeniedError(f"{where}: the proxy wants a user and a password, or others", hint=_PROXY_HINT)
            denied.status = 407
            return denied
    for cause in _causes(problem):
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
            return certificate_error(f"{where}{': ' if through else ''}{through.removesuffix(': ')}", cause)
    if isinstance(problem, (urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.NewConnectionError)):
        return PassingError(UnreachableError(f"{where}: {through}{_why(problem)}", hint=_NETWORK_HINT))
    if isinstance(problem, (urllib3.exceptions.TimeoutError, TimeoutError)):
        return PassingError(
            SlowError(
                f"{where}: {through}{slow}",
                hint="try again later; if it stays so, look for who slows the connection down",
            )
        )
    return PassingError(UnreachableError(f"{where}: {through}{_why(problem)}", hint=_NETWORK_HINT))


def _why(problem: BaseException) -> str:
    """What a person can use of it; never the text of an unknown exception, which may quote headers."""
    if isinstance(problem, urllib3.exceptions.NameResolutionError):
        return "the name cannot be resolved"
    if isinstance(problem, urllib3.exceptions.ConnectTimeoutError):
        return "no connection in time"
    for cause in _causes(problem):
        if isinstance(cause, urllib3.exceptions.IncompleteRead):
            return "the answer is cut short"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, ssl.SSLError):
            return cause.strerror
    if isinstance(problem, OSError) and str(problem).startswith("Tunnel connection failed: "):
        return f"it refuses to connect further (HTTP status {str(problem).split(': ', 1)[1][:3]})"
    if isinstance(problem, urllib3.exceptions.ProtocolError):
        return "the connection was cut, or what answers does not speak HTTP"
    return f"the connection failed ({type(problem).__name__})"


def _causes(problem: BaseException) -> list[BaseException]:
    """The exception, and those that it was made from."""
    found: list[BaseException] = []
    waiting: list[object] = [problem]
    while waiting and len(found) < 16:
        item = waiting.pop(0)
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            waiting += [*item.args, item.__cause__, item.__context__]
    return found
