"""Bytes from a repository: HTTP, HTTPS and files, bounded in time and, by the caller, in size.

Implements python-tuf's `FetcherInterface`, so metadata and everything else come over the same connection.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import stat
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass, url2pathname

import urllib3
from tuf.api import exceptions
from tuf.ngclient.fetcher import FetcherInterface

from kmend import __version__

CHUNK = 64 * 1024
_MAX_ERROR_BODY = 16 * 1024


class Transport(FetcherInterface):
    """Fetches `http`, `https` and `file` URLs.

    Args:
        connect_seconds: limit for a connection to stand.
        read_seconds: limit between two pieces of an answer.
        total_seconds: limit for one whole file, so that a trickle does not count as progress.

    Attributes:
        server_time: what the last HTTP answer gave as its date. Unsigned, so only a hint that the local clock is wrong.
        received: bytes of bodies received so far.
    """

    def __init__(self, *, connect_seconds: float = 10, read_seconds: float = 30, total_seconds: float = 300) -> None:
        self._timeout = urllib3.Timeout(connect=connect_seconds, read=read_seconds)
        self._total_seconds = total_seconds
        self._pools: dict[str, urllib3.PoolManager] = {}
        self.server_time: datetime.datetime | None = None
        self.received = 0

    def close(self) -> None:
        """Close kept connections."""
        for pool in self._pools.values():
            pool.clear()

    def _fetch(self, url: str) -> Iterator[bytes]:
        scheme = urlsplit(url).scheme
        if scheme == "file":
            return self._file(url)
        if scheme in ("http", "https"):
            return self._http(url)
        raise exceptions.DownloadError(f"{url}: only http, https and file URLs can be read")

    def _file(self, url: str) -> Iterator[bytes]:
        path = url2pathname(urlsplit(url).path)
        try:
            # Not blocking, so that a FIFO put in a file's place cannot hang the agent.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise exceptions.DownloadHTTPError(f"{path} does not exist", 404) from None
        except OSError as problem:
            raise exceptions.DownloadError(f"cannot read {path}: {problem.strerror}") from problem
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise exceptions.DownloadError(f"{path} is not a regular file")
        return self._pieces(descriptor, path)

    def _pieces(self, descriptor: int, path: str) -> Iterator[bytes]:
        with os.fdopen(descriptor, "rb") as stream:
            try:
                while piece := stream.read(CHUNK):
                    self.received += len(piece)
                    yield piece
            except OSError as problem:
                raise exceptions.DownloadError(f"cannot read {path}: {problem.strerror}") from problem

    def _http(self, url: str) -> Iterator[bytes]:
        deadline = time.monotonic() + self._total_seconds
        try:
            response = self._pool(url).request("GET", url, preload_content=False, timeout=self._timeout)
        except urllib3.exceptions.MaxRetryError as problem:
            if isinstance(problem.reason, urllib3.exceptions.ReadTimeoutError):
                raise exceptions.SlowRetrievalError(f"{url}: no answer in time") from None
            raise exceptions.DownloadError(f"{url}: {_cause(problem.reason)}") from None
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as problem:
            raise exceptions.DownloadError(f"{url}: {_cause(problem)}") from None
        self._note_time(response)
        if response.status != 200:
            with contextlib.suppress(urllib3.exceptions.HTTPError, OSError):
                # Reading a short error page to its end keeps the connection usable.
                response.read(_MAX_ERROR_BODY)
            response.release_conn()
            raise exceptions.DownloadHTTPError(f"{url}: HTTP status {response.status}", response.status)
        return self._body(response, url, deadline)

    def _body(self, response: urllib3.BaseHTTPResponse, url: str, deadline: float) -> Iterator[bytes]:
        finished = False
        try:
            for piece in response.stream(CHUNK, decode_content=False):
                self.received += len(piece)
                if time.monotonic() > deadline:
                    raise exceptions.SlowRetrievalError(f"{url}: not finished after {self._total_seconds:g} s")
                yield piece
            finished = True
        except urllib3.exceptions.TimeoutError:
            raise exceptions.SlowRetrievalError(f"{url}: the answer stopped in the middle") from None
        except (urllib3.exceptions.HTTPError, OSError) as problem:
            raise exceptions.DownloadError(f"{url}: {_cause(problem)}") from None
        finally:
            if finished:
                response.release_conn()
            else:
                response.close()

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        proxies = getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all") or ""
        if proxy and proxy_bypass(parts.hostname or ""):
            proxy = ""
        if proxy not in self._pools:
            headers = {"User-Agent": f"kmend/{__version__}", "Accept-Encoding": "identity"}
            retries = urllib3.Retry(total=2, redirect=3, backoff_factor=0.3, status=0)
            if proxy:
                self._pools[proxy] = urllib3.ProxyManager(proxy, headers=headers, retries=retries)
            else:
                self._pools[proxy] = urllib3.PoolManager(headers=headers, retries=retries)
        return self._pools[proxy]

    def _note_time(self, response: urllib3.BaseHTTPResponse) -> None:
        try:
            moment = parsedate_to_datetime(response.headers.get("Date", ""))
        except (ValueError, TypeError, OverflowError):
            return
        self.server_time = moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc)


def _cause(problem: object) -> str:
    """The part of a urllib3 error that tells a person something."""
    if isinstance(problem, urllib3.exceptions.NameResolutionError):
        return "the name cannot be resolved"
    if isinstance(problem, urllib3.exceptions.ConnectTimeoutError):
        return "no connection in time"
    if isinstance(problem, urllib3.exceptions.NewConnectionError):
        return str(problem).rsplit(": ", 1)[-1]
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return str(problem)
