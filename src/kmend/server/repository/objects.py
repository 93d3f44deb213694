"""The repository's files in an S3-compatible store: GET, HEAD, PUT and LIST, path style, over urllib3."""

from __future__ import annotations

import datetime
import email.utils
import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from kmend import __version__
from kmend.core import durable
from kmend.server.config import ObjectStoreSection
from kmend.server.repository.errors import ObjectStoreError
from kmend.server.repository.sigv4 import Credentials, Request, authorization, encoded_path, encoded_query
from kmend.trust.certificates import make_context
from kmend.trust.network import Network

_EMPTY = hashlib.sha256(b"").hexdigest()
_MAX_CREDENTIALS = 4096
_MAX_LIST = 4 * 1024 * 1024
_TIMEOUT = urllib3.Timeout(connect=5, read=30)
_RETRIES = urllib3.Retry(total=3, backoff_factor=0.3, status_forcelist=(500, 502, 503, 504), redirect=0,
                         raise_on_status=False, allowed_methods=None)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ObjectEntry:
    """A file in the store."""

    bucket: Bucket
    path: str
    size: int
    etag: str
    modified: int

    def read(self, start: int, length: int) -> bytes:
        """A piece of it, of the very version that was found.

        Raises:
            ObjectStoreError: it is gone, or another one meanwhile.
        """
        if not self.size or not length:
            return b""
        span = {"range": f"bytes={start}-{start + length - 1}", "if-match": self.etag}
        status, _, content = self.bucket.request("GET", self.path, headers=span, limit=length)
        if status != 206 and not (status == 200 and len(content) == self.size):
            raise ObjectStoreError(f"the object store answered HTTP {status} for {self.path}")
        return content if status == 206 else content[start : start + length]

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class Bucket:
    """One bucket; may be used from many threads.

    Attributes:
        prefix: before every name, with a slash at its end, or empty.
    """

    endpoint: str
    name: str
    region: str
    prefix: str
    credentials: Credentials
    _pool: urllib3.PoolManager = field(init=False, repr=False)

    def __post_init__(self) -> None:
        context = make_context(Network()) if self.endpoint.startswith("https:") else None
        self._pool = urllib3.PoolManager(maxsize=32, ssl_context=context)

    @classmethod
    def of(cls, section: ObjectStoreSection) -> Bucket:
        """As configured.

        Raises:
            ObjectStoreError: the credentials' file cannot be used.
        """
        if not section.endpoint or not section.bucket or not section.credentials:
            raise ObjectStoreError("[object_store] needs endpoint, bucket and credentials", hint="see server.toml")
        lines = durable.read_bounded(Path(section.credentials), max_bytes=_MAX_CREDENTIALS).decode().split()
        if len(lines) != 2:
            raise ObjectStoreError(f"{section.credentials} must hold two lines: the access key's ID, and its secret")
        prefix = f"{section.prefix.strip('/')}/" if section.prefix.strip("/") else ""
        return cls(section.endpoint.rstrip("/"), section.bucket, section.region, prefix, Credentials(*lines))

    def find(self, path: str) -> ObjectEntry | None:
        """The file of that path; None if there is none."""
        status, headers, _ = self.request("HEAD", path)
        if status in (403, 404):
            # A store that may not be listed answers 403 for what it does not have.
            return None
        if status != 200 or not headers.get("content-length", "").isdigit() or not headers.get("etag"):
            raise ObjectStoreError(f"the object store answered HTTP {status} for {path}")
        try:
            modified = int(email.utils.parsedate_to_datetime(headers.get("last-modified", "")).timestamp())
        except (ValueError, TypeError):
            modified = 0
        return ObjectEntry(self, path, int(headers["content-length"]), headers["etag"], modified)

    def put(self, path: str, content: bytes, *, cache_control: str) -> None:
        """Store a file, whole; who reads sees the one before or this one."""
        kind = "application/json" if path.endswith(".json") else "application/octet-stream"
        headers = {"content-type": kind, "cache-control": cache_control}
        status, _, _ = self.request("PUT", path, headers=headers, body=content)
        if status not in (200, 201, 204):
            raise ObjectStoreError(f"the object store did not take {path}: HTTP {status}")

    def listing(self) -> Iterator[tuple[str, int]]:
        """Every file: path and size."""
        query = {"list-type": "2", "prefix": self.prefix}
        while True:
            status, _, content = self.request("GET", None, query=query, limit=_MAX_LIST)
            if status != 200:
                raise ObjectStoreError(f"the object store does not let us list: HTTP {status}")
            try:
                tree = ElementTree.fromstring(content)  # noqa: S314 - expat without entities of its own, bounded in size
            except ElementTree.ParseError:
                raise ObjectStoreError("the object store's list cannot be read") from None
            for item in tree.iterfind("{*}Contents"):
                key, size = item.findtext("{*}Key", ""), item.findtext("{*}Size", "")
                if key.startswith(self.prefix) and size.isdigit():
                    yield key.removeprefix(self.prefix), int(size)
            token = tree.findtext("{*}NextContinuationToken", "")
            if tree.findtext("{*}IsTruncated", "false") != "true" or not token:
                return
            query = {**query, "continuation-token": token}

    def request(
        self,
        method: str,
        path: str | None,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        limit: int = 0,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One signed request; status, headers (lower case) and at most `limit` bytes of the answer.

        Args:
            path: of a file; None for the bucket itself.

        Raises:
            ObjectStoreError: no answer.
        """
        moment = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        whole = f"/{self.name}" + (f"/{self.prefix}{path}" if path is not None else "")
        payload = hashlib.sha256(body).hexdigest() if body else _EMPTY
        signed = {
            "host": urlsplit(self.endpoint).netloc,
            "x-amz-content-sha256": payload,
            "x-amz-date": moment,
            **(headers or {}),
        }
        request = Request(method, whole, query or {}, signed, payload)
        sent = {**signed, "user-agent": f"kmend-server/{__version__}", "accept-encoding": "identity"}
        sent["authorization"] = authorization(request, self.credentials, region=self.region, moment=moment)
        asked = encoded_query(query or {})
        url = f"{self.endpoint}{encoded_path(whole)}" + (f"?{asked}" if asked else "")
        try:
            response = self._pool.request(
                method, url, headers=sent, body=body or None, timeout=_TIMEOUT, retries=_RETRIES, redirect=False,
                preload_content=False, decode_content=False,
            )  # fmt: skip
            try:
                content = response.read(limit + 1) if limit else b""
            finally:
                response.drain_conn()
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as problem:
            raise ObjectStoreError(f"the object store does not answer: {type(problem).__name__}") from None
        if len(content) > limit:
            raise ObjectStoreError(f"the object store sent more than the {limit} bytes that were asked for")
        return response.status, {name.lower(): value for name, value in response.headers.items()}, content
