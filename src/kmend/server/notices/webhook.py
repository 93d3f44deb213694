"""Sending to a webhook: one POST of a signed JSON document to an address that was judged, no redirection, little time.

Kmend-Webhook-Id: <number of the notice>                 the same when it is tried again
Kmend-Webhook-Signature: t=<seconds since 1970>,v1=<hex> HMAC-SHA256 with the channel's secret over "<t>.<body>"
"""

from __future__ import annotations

import hashlib
import hmac

import urllib3

from kmend import __version__
from kmend.server.notices import guard
from kmend.server.notices.errors import DeliveryError
from kmend.trust import failures
from kmend.trust.certificates import make_context
from kmend.trust.deadline import Deadline, bound, bound_tls
from kmend.trust.network import Network

SIGNATURE_HEADER = "Kmend-Webhook-Signature"
ID_HEADER = "Kmend-Webhook-Id"
MAX_ANSWER = 16 * 1024


def signature(secret: str, at: int, body: bytes) -> str:
    """The header's value; who receives it computes the same, and refuses what is older than some minutes."""
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def send(
    url: str,
    secret: str,
    number: int,
    body: bytes,
    *,
    now: int,
    rules: guard.Rules,
    seconds: float,
    network: Network | None = None,
    resolve: guard.Resolve | None = None,
) -> None:
    """Send one notice.

    Args:
        seconds: for all of it but the name's resolution.
        network: whose certificates are trusted; None for the system's authorities.
        resolve: how names become addresses; None asks the system.

    Raises:
        ForbiddenTargetError: the URL leads where it must not.
        DeliveryError: no answer, or none that says it was taken.
    """
    target = guard.aim(url, rules, resolve)
    deadline = Deadline(1_000_000)
    deadline.start(seconds)
    extra: dict[str, object] = {"timeout": urllib3.Timeout(connect=seconds, read=seconds)}
    if target.secure:
        context = make_context(network or Network())
        bound_tls(context, deadline)
        extra |= {"ssl_context": context, "server_hostname": target.host}
    manager = urllib3.PoolManager()
    bound(manager, deadline)
    scheme = "https" if target.secure else "http"
    pool = manager.connection_from_host(target.address, target.port, scheme, pool_kwargs=extra)
    headers = {
        "Host": _host_header(target),
        "Content-Type": "application/json",
        "User-Agent": f"kmend-server/{__version__}",
        "Accept-Encoding": "identity",
        ID_HEADER: str(number),
        SIGNATURE_HEADER: signature(secret, now, body),
    }
    try:
        response = pool.urlopen(
            "POST", target.path, body=body, headers=headers, retries=False, redirect=False, preload_content=False,
            assert_same_host=False, decode_content=False,
        )  # fmt: skip
        try:
            response.read(MAX_ANSWER, decode_content=False)
        finally:
            response.close()
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as problem:
        raise DeliveryError(failures.of_connection(target.host, problem, "no answer in time").args[0]) from None
    finally:
        manager.clear()
    if 300 <= response.status < 400:
        raise DeliveryError(f"{target.host} redirects (HTTP {response.status}), and no redirection is followed")
    if not 200 <= response.status < 300:
        raise DeliveryError(f"{target.host} answered HTTP {response.status}")


def _host_header(target: guard.Target) -> str:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return host if target.port == (443 if target.secure else 80) else f"{host}:{target.port}"
