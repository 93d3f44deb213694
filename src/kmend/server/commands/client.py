"""Speaking to a server's API: JSON over urllib3, errors as the server's own words, and lists page by page."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import ssl
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import click
import urllib3

from kmend import __version__
from kmend.core.errors import KmendError
from kmend.server.commands.given import Given
from kmend.trust import failures
from kmend.trust.certificates import make_context
from kmend.trust.network import Network

PREFIX = "/api/v1"
MAX_ANSWER = 64 * 1024 * 1024
_TIMEOUT = urllib3.Timeout(connect=10, read=60)
_RETRIES = urllib3.Retry(
    total=4, redirect=0, backoff_factor=0.4, status_forcelist=(503,), allowed_methods=None, raise_on_status=False
)
"""Asking again does no harm: what changes something carries a key by which it is done once."""
Row = Mapping[str, Any]


class ServerAnswerError(KmendError):
    """The server refuses, or cannot be spoken to."""

    kind: ClassVar[str] = "server"

    def __init__(self, message: str, *, kind: str = "server", hint: str = "", refused: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.kind = kind  # type: ignore[misc] # the server's own word
        self.exit_status = 2 if refused else 1


class Client:
    """Connections to one server.

    Args:
        ca_file: certificates to trust instead of the system's; empty for those.
        pin: SHA-256 of the certificate of the server's authority, which is fetched and then trusted alone.
    """

    def __init__(self, url: str, token: str, *, ca_file: str = "", pin: str = "") -> None:
        self._url = url.rstrip("/")
        self._token = token
        if pin:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=_pinned(self._url, pin))
        else:
            context = make_context(Network(ca_file=ca_file, system_ca=not ca_file))
        self._pool = urllib3.PoolManager(ssl_context=context)

    def get(self, *parts: str, **query: object) -> Any:
        """What lies at a path; parts are encoded."""
        return self._json("GET", parts, query, None)

    def post(self, *parts: str, body: object = None) -> Any:
        """Do something, once."""
        return self._json("POST", parts, {}, body)

    def put(self, *parts: str, body: object) -> Any:
        """Bring something to be as `body` says."""
        return self._json("PUT", parts, {}, body)

    def delete(self, *parts: str) -> None:
        """Take something away."""
        self._json("DELETE", parts, {}, None)

    def every(self, *parts: str, **query: object) -> Iterator[Row]:
        """All items of a list that comes in pages."""
        cursor = ""
        while True:
            page = self.get(*parts, **{**query, "cursor": cursor, "limit": 500})
            yield from page["items"]
            cursor = page["next"]
            if not cursor:
                return

    def lines(self, *parts: str, **query: object) -> Iterator[bytes]:
        """A stream, in pieces as they come."""
        response = self._request("GET", parts, query, None)
        try:
            if response.status != 200:
                raise _refusal(response.status, response.read(MAX_ANSWER))
            while piece := response.read(64 * 1024):
                yield piece
        except (urllib3.exceptions.HTTPError, OSError) as problem:
            raise ServerAnswerError(
                f"the answer broke off: {type(problem).__name__}", hint="the server's log tells why"
            ) from None
        finally:
            response.close()

    def _json(self, method: str, parts: tuple[str, ...], query: Mapping[str, object], body: object) -> Any:
        response = self._request(method, parts, query, body)
        try:
            content = response.read(MAX_ANSWER + 1)
        except (urllib3.exceptions.HTTPError, OSError) as problem:
            raise ServerAnswerError(f"the answer broke off: {type(problem).__name__}") from None
        finally:
            response.release_conn()
        if not 200 <= response.status < 300:
            raise _refusal(response.status, content)
        if not content:
            return None
        try:
            return json.loads(content)
        except ValueError:
            raise ServerAnswerError("what answers there is not a kmend server", hint="look at the URL") from None

    def _request(
        self, method: str, parts: tuple[str, ...], query: Mapping[str, object], body: object
    ) -> urllib3.BaseHTTPResponse:
        given = [(name, _text(value)) for name, value in query.items() if value is not None and value != ""]
        path = "/".join(quote(part, safe="") for part in parts)
        url = f"{self._url}{PREFIX}/{path}" + (f"?{urlencode(given)}" if given else "")
        headers = {
            "Authorization": f"Bearer {self._token}",
            "User-Agent": f"kmend-server/{__version__}",
            "Accept": "application/json",
        }
        content = b""
        if method in ("POST", "PUT"):
            headers["Idempotency-Key"] = secrets.token_hex(16)
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        try:
            return self._pool.request(
                method, url, headers=headers, body=content, timeout=_TIMEOUT, retries=_RETRIES, redirect=False,
                preload_content=False,
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as problem:
            inner = problem.reason if isinstance(problem, urllib3.exceptions.MaxRetryError) else problem
            told = failures.of_connection(self._url, inner or problem, "no answer in time")
            raise ServerAnswerError(str(told.args[0]), hint=getattr(told, "hint", "") or _HINT) from None


_HINT = "look whether the server runs, and at its URL"


def connect(context: click.Context) -> Client:
    """The server that the command line means."""
    given: Given = context.obj if isinstance(context.obj, Given) else Given()
    found = given.completed()
    return Client(found.url, found.token(), ca_file=str(found.ca) if found.ca else "", pin=found.pin)


def _pinned(url: str, pin: str) -> str:
    """The certificate of the server's authority, if it is the pinned one."""
    pool = urllib3.PoolManager(cert_reqs="CERT_NONE", assert_hostname=False)
    try:
        # Nothing is sent, and nothing of the answer is believed before its digest is the pin.
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        response = pool.request("GET", f"{url}/v1/authority", timeout=_TIMEOUT, redirect=False, preload_content=False)
        text = response.read(64 * 1024).decode("ascii", errors="replace")
        response.release_conn()
        certificate = ssl.PEM_cert_to_DER_cert(text)
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        raise ServerAnswerError(f"{url} does not show an authority's certificate", hint=_HINT) from None
    finally:
        pool.clear()
    digest = hashlib.sha256(certificate).hexdigest()
    if not hmac.compare_digest(digest, pin.lower()):
        raise ServerAnswerError(
            f"{url} is not the pinned server: its authority is {digest}",
            hint="somebody else answers there, or the server was made anew",
            refused=True,
        )
    # Not what came: a second certificate may stand behind the first, which the digest does not cover.
    return ssl.DER_cert_to_PEM_cert(certificate)


def _refusal(status: int, content: bytes) -> ServerAnswerError:
    try:
        tree = json.loads(content)
        word = str(tree["type"]).rpartition(":")[2]
        detail, hint = str(tree.get("detail") or tree.get("title")), str(tree.get("hint") or "")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ServerAnswerError(f"the server answered HTTP {status}", hint=_HINT)
    return ServerAnswerError(detail, kind=word, hint=hint, refused=400 <= status < 500)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
