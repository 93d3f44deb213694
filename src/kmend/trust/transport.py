"""Bytes from a repository: HTTP, HTTPS and files, bounded in size and time, asked for again where that makes sense.

What a server can do wrong and what happens then: docs/repository.md. A transport keeps its connections, so who asks often keeps
the transport.
"""

from __future__ import annotations

import datetime
import logging
import os
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import urllib3

from kmend import __version__
from kmend.core.durable import read_bounded
from kmend.core.errors import SystemProblemError
from kmend.trust import failures, retrying
from kmend.trust.addresses import authorization, basic_login, origin, redirected, shown
from kmend.trust.beneath import open_file
from kmend.trust.certificates import make_context
from kmend.trust.deadline import Deadline, bound, bound_tls
from kmend.trust.errors import (
    InterceptedError,
    MismatchError,
    MissingError,
    NetworkSettingsError,
    RedirectError,
    SlowError,
    TooLargeError,
    UnreachableError,
)
from kmend.trust.failures import PassingError
from kmend.trust.network import Network
from kmend.trust.proxies import Proxies, Proxy, read_proxies

CHUNK = 64 * 1024
MAX_REDIRECTS = 5
_MAX_DRAINED = 16 * 1024
_MAX_CREDENTIALS = 4096
_PAGE = "a web page came instead of what a repository has there"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_random = random.SystemRandom()
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Partial:
    """The beginning of a file that is being fetched; it outlives an attempt, and may outlive the process.

    Attributes:
        content: what is there so far.
        validator: the strong ETag or the Last-Modified of the file that it is the beginning of; empty if the server gave none.
        resumed: how often a server went on where another attempt had stopped.
    """

    content: bytearray = field(default_factory=bytearray)
    validator: str = ""
    resumed: int = 0

    def clear(self) -> None:
        """Begin anew."""
        self.content.clear()
        self.validator = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was fetched.

    Attributes:
        etag: as the server gave it, empty if it gave none.
        modified: its Last-Modified; empty if it gave none, or so soon after a change that there may be another in that second.
        unchanged: the server says that what `etag` and `modified` of the request name is still current; no content then.
    """

    content: bytes
    etag: str = ""
    modified: str = ""
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered to a message.

    Attributes:
        status: of HTTP.
        retry_after: seconds for which the server wants to be left alone; None if it does not say.
    """

    status: int
    content: bytes
    retry_after: float | None = None


class Transport:
    """Fetches `http`, `https` and `file` URLs; for one thread.

    Args:
        network: proxies, certificates, limits.
        environment: where proxies are looked for besides; None takes the process's own.
        sleep: waits between attempts.
        draw: uniform random numbers in [0, 1).
        beneath: a folder that somebody else may write; files are only read below it, and no symbolic link there is followed.

    Attributes:
        server_time: what the last HTTP answer gave as its date. Unsigned, so only a hint that the local clock is wrong.
        received: bytes of bodies received so far.
        requests: HTTP requests sent so far.
    """

    def __init__(
        self,
        network: Network | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        draw: Callable[[], float] = _random.random,
        beneath: Path | None = None,
    ) -> None:
        self._beneath = beneath
        self._network = network or Network()
        self._environment = os.environ if environment is None else environment
        self._sleep = sleep
        self._draw = draw
        self._deadline = Deadline(max(1, self._network.min_rate))
        self._timeout = urllib3.Timeout(connect=self._network.connect, read=self._network.read)
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._proxies: Proxies | None = None
        self.server_time: datetime.datetime | None = None
        self.received = 0
        self.requests = 0

    def server_seconds(self) -> float | None:
        """`server_time` in seconds since 1970-01-01 UTC."""
        return self.server_time.timestamp() if self.server_time is not None else None

    def close(self) -> None:
        """Close kept connections."""
        for pool in self._pools.values():
            pool.clear()

    def get(
        self, url: str, limit: int, *, etag: str = "", modified: str = "", partial: Partial | None = None
    ) -> Answer:
        """Fetch one file.

        Args:
            url: what to fetch.
            limit: the most bytes that are taken.
            etag: an ETag and
            modified: a Last-Modified that came with an earlier answer: if the file is the same, nothing is fetched.
            partial: what is there already; after an error it holds what came until then.

        Raises:
            TrustError: see `kmend.trust.errors`; no message holds user, password or query of a URL.
        """
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError:
            raise UnreachableError(f"{shown(url)} is not a URL") from None
        if parts.scheme == "file":
            return Answer(self._file(parts, limit))
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UnreachableError(f"{shown(url)}: only http, https and file URLs can be read")
        conditions = {
            name: value for name, value in (("If-None-Match", etag), ("If-Modified-Since", modified)) if value
        }
        return self._attempts(url, limit, conditions, partial if partial is not None else Partial())

    def post(self, url: str, body: bytes, headers: Mapping[str, str], limit: int, *, wait: float = 0.0) -> Reply:
        """Send a message once: no redirection is followed, nothing is sent again.

        Args:
            body: JSON.
            limit: the most bytes that are taken of the answer.
            wait: seconds for which the server may hold the answer back, besides the usual.

        Raises:
            TrustError: no answer came; see `kmend.trust.errors`. An answer that refuses is no error.
        """
        self._deadline.start(self._network.total + wait)
        timeout = urllib3.Timeout(connect=self._network.connect, read=self._network.read + wait)
        told = {**headers, "Content-Type": "application/json", **authorization(url)}
        partial = Partial()
        try:
            response = self._request(url, told, method="POST", body=body, timeout=timeout)
            self._body(response, url, limit, partial)
        except PassingError as passing:
            raise passing.problem from None
        asked = response.headers.get("Retry-After", "")
        now = datetime.datetime.now(datetime.timezone.utc)
        after = retrying.read_retry_after(asked, self.server_time, now) if asked else None
        return Reply(response.status, bytes(partial.content), after)

    def _attempts(self, url: str, limit: int, conditions: dict[str, str], partial: Partial) -> Answer:
        self._deadline.start(self._network.total)
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._follow(url, limit, conditions, partial)
            except PassingError as passing:
                problem = passing.problem
                if isinstance(problem, UnreachableError):
                    problem.retry_after = passing.retry_after
                wait = retrying.pause(attempt, self._draw(), retry_after=passing.retry_after)
                if wait is None:
                    problem.hint = f"the server asks to be left alone for {passing.retry_after:.0f} s; try again then"
                if attempt >= self._network.attempts or wait is None or wait >= self._deadline.remaining:
                    raise problem from None
                _logger.info("%s; asking again in %.1f s", problem.message, wait)
                self._sleep(wait)

    def _follow(self, url: str, limit: int, conditions: dict[str, str], partial: Partial) -> Answer:
        current = url
        for _ in range(MAX_REDIRECTS + 1):
            headers = dict(conditions)
            if partial.content and partial.validator:
                headers |= {"Range": f"bytes={len(partial.content)}-", "If-Range": partial.validator}
            else:
                partial.clear()
            if origin(current) == origin(url):
                # Credentials of the repository's URL are for that server alone.
                headers |= authorization(url)
            response = self._request(current, headers)
            if response.status not in _REDIRECTS:
                return self._answer(response, current, limit, partial, conditional=bool(conditions))
            target = response.headers.get("Location", "")
            self._drain(response)
            current = redirected(current, target)
        raise RedirectError(f"{shown(url)}: redirected more than {MAX_REDIRECTS} times, last to {shown(current)}")

    def _request(
        self,
        url: str,
        headers: dict[str, str],
        *,
        method: str = "GET",
        body: bytes | None = None,
        timeout: urllib3.Timeout | None = None,
    ) -> urllib3.BaseHTTPResponse:
        pool = self._pool(url)
        self.requests += 1
        parts = urlsplit(url)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()
        try:
            response = pool.request(
                method,
                bare,
                body=body,
                headers={**pool.headers, **headers},
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=timeout or self._timeout,
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as problem:
            raise self._failure(url, problem, "no answer in time") from None
        self._note_time(response)
        return response

    def _answer(
        self, response: urllib3.BaseHTTPResponse, url: str, limit: int, partial: Partial, *, conditional: bool
    ) -> Answer:
        status, headers = response.status, response.headers
        if status == 304 and conditional:
            self._drain(response)
            return Answer(b"", headers.get("ETag", ""), _settled(headers), unchanged=True)
        if status == 206 and partial.content and _begins(headers.get("Content-Range", "")) == len(partial.content):
            partial.resumed += 1
        elif status == 200:
            partial.clear()
        elif status in (206, 416):
            # Not what was asked for: from the beginning, then.
            self._drain(response)
            partial.clear()
            raise PassingError(UnreachableError(f"{shown(url)}: the server does not continue where it stopped"))
        else:
            self._drain(response)
            raise failures.of_status(
                shown(url),
                status,
                headers.get("Retry-After", ""),
                self.server_time,
                datetime.datetime.now(datetime.timezone.utc),
            )
        etag, modified = headers.get("ETag", "")[:500], headers.get("Last-Modified", "")[:100]
        # RFC 9110, section 13.1.5: a weak ETag must not be used here.
        partial.validator = etag if etag.startswith('"') else modified
        self._body(response, url, limit, partial)
        content = bytes(partial.content)
        if (_is_page(response) or urlsplit(url).path.endswith(".json")) and content.lstrip()[:1] == b"<":
            raise InterceptedError(f"{shown(url)}: {_PAGE}")
        return Answer(content, etag, _settled(headers))

    def _body(self, response: urllib3.BaseHTTPResponse, url: str, limit: int, partial: Partial) -> None:
        finished = False
        try:
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding not in ("identity", ""):
                raise MismatchError(
                    f"{shown(url)}: the answer is compressed ({encoding[:20]!r}), which was not asked for",
                    hint="have the server, or the proxy before it, send files as they are",
                )
            announced = response.headers.get("Content-Length", "")
            if announced.isdigit() and int(announced[:18]) > limit - len(partial.content):
                if _is_page(response):
                    raise InterceptedError(f"{shown(url)}: {_PAGE}")
                raise TooLargeError(
                    f"{shown(url)}: {announced[:18]} bytes are announced, more than the {limit} accepted"
                )
            while piece := response.read1(CHUNK, decode_content=False):
                self.received += len(piece)
                self._deadline.earn(len(piece))
                partial.content += piece
                if len(partial.content) > limit:
                    raise TooLargeError(f"{shown(url)}: more than the {limit} bytes that are accepted")
            finished = True
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as problem:
            raise self._failure(url, problem, "the answer stopped in the middle") from None
        finally:
            if finished:
                response.release_conn()
            else:
                response.close()

    def _failure(self, url: str, problem: Exception, slow: str) -> Exception:
        if self._deadline.remaining <= 0:
            return SlowError(
                f"{shown(url)}: slower than {self._network.min_rate} bytes/s, given up after {self._network.total:g} s",
                hint="try again later; if it stays so, look for who slows the connection down",
            )
        return failures.of_connection(shown(url), problem, slow)

    def _drain(self, response: urllib3.BaseHTTPResponse) -> None:
        """Keep the connection if the rest of the answer is short, else drop it."""
        length = response.headers.get("Content-Length", "")
        try:
            if response.status == 304 or (length.isdigit() and int(length[:9]) <= _MAX_DRAINED):
                while response.read1(CHUNK, decode_content=False):
                    pass
                response.release_conn()
                return
        except (urllib3.exceptions.HTTPError, OSError, ValueError):
            pass
        response.close()

    def _file(self, parts: SplitResult, limit: int) -> bytes:
        path = unquote(parts.path)
        if parts.netloc not in ("", "localhost"):
            raise UnreachableError(f"file URLs have no host: {shown(parts.geturl())}", hint="write file:///path")
        try:
            descriptor = open_file(path, self._beneath)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"{path} does not exist", hint=failures.MISSING_HINT) from None
        except (OSError, ValueError) as problem:
            raise UnreachableError(f"cannot read {path}: {getattr(problem, 'strerror', problem)}") from None
        with os.fdopen(descriptor, "rb") as stream:
            try:
                content = stream.read(limit + 1)
            except OSError as problem:
                raise UnreachableError(f"cannot read {path}: {problem.strerror}") from None
        self.received += len(content)
        if len(content) > limit:
            raise TooLargeError(f"{path}: more than the {limit} bytes that are accepted")
        return content

    def _pool(self, url: str) -> urllib3.PoolManager:
        if self._proxies is None:
            network = self._network
            self._proxies = read_proxies(
                network.proxy, network.no_proxy, _read_credentials(network.proxy_credentials), self._environment
            )
        proxy = self._proxies.before(url)
        secure = url.startswith("https:") or (proxy is not None and proxy.url.startswith("https:"))
        key = (proxy.url if proxy else "", secure)
        if key not in self._pools:
            self._pools[key] = self._make_pool(proxy, secure=secure)
        return self._pools[key]

    def _make_pool(self, proxy: Proxy | None, *, secure: bool) -> urllib3.PoolManager:
        headers = {"User-Agent": f"kmend/{__version__}", "Accept-Encoding": "identity"}
        context = None
        if secure:
            context = self._context()
            bound_tls(context, self._deadline)
        if proxy is None:
            pool = urllib3.PoolManager(headers=headers, ssl_context=context)
        else:
            login = basic_login(proxy.credentials, "Proxy-Authorization") if proxy.credentials else {}
            pool = urllib3.ProxyManager(
                proxy.url, headers=headers, proxy_headers=login, ssl_context=context, proxy_ssl_context=context
            )
        bound(pool, self._deadline)
        return pool

    def _context(self) -> ssl.SSLContext:
        return make_context(self._network)

    def _note_time(self, response: urllib3.BaseHTTPResponse) -> None:
        try:
            moment = parsedate_to_datetime(response.headers.get("Date", ""))
        except (ValueError, TypeError, OverflowError):
            return
        self.server_time = moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)


def _is_page(response: urllib3.BaseHTTPResponse) -> bool:
    return response.headers.get("Content-Type", "").lower().startswith("text/html")


def _begins(content_range: str) -> int:
    """Where a Content-Range (RFC 9110, section 14.4) begins; -1 if it cannot be read."""
    unit, _, spans = content_range.strip().partition(" ")
    start = spans.strip().partition("-")[0]
    return int(start[:18]) if unit.lower() == "bytes" and start.isascii() and start.isdigit() else -1


def _read_credentials(path: str) -> str:
    if not path:
        return ""
    try:
        credentials = read_bounded(Path(path), max_bytes=_MAX_CREDENTIALS).decode().strip()
    except (SystemProblemError, UnicodeDecodeError):
        raise NetworkSettingsError(f"network.proxy_credentials {path} cannot be read") from None
    if ":" not in credentials or "\n" in credentials:
        raise NetworkSettingsError(f"network.proxy_credentials {path} must hold one line: user:password")
    return credentials


def _settled(headers: Mapping[str, str]) -> str:
    """The Last-Modified, if the file cannot have changed again within that second (RFC 9110, section 8.8.2.2); else empty."""
    modified = headers.get("Last-Modified", "")[:100]
    try:
        age = parsedate_to_datetime(headers.get("Date", "")) - parsedate_to_datetime(modified)
        return modified if age >= datetime.timedelta(seconds=2) else ""
    except (ValueError, TypeError):
        return ""
