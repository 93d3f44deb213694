"""Signing requests to S3-compatible stores: AWS Signature Version 4, with the payload's digest in the request.

Written here because it is forty lines against a dependency of some hundred thousand (docs/decisions/0023-object-store.md); the
published examples of the specification are tests.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks."""

    key_id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be signed.

    Attributes:
        path: not encoded yet, with its slash.
        query: not encoded yet.
        headers: all that are sent and matter; `host` among them.
        payload: SHA-256 of the body in hexadecimal.
    """

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    payload: str


def encoded_path(path: str) -> str:
    """As it is sent and signed: everything but unreserved characters and slashes in percent form, once."""
    return quote(path, safe="/-_.~")


def encoded_query(query: Mapping[str, str]) -> str:
    """The same for the query, sorted."""
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
    return "&".join(f"{name}={value}" for name, value in pairs)


def authorization(request: Request, credentials: Credentials, *, region: str, moment: str, service: str = "s3") -> str:
    """The value of the header Authorization.

    Args:
        moment: `20130524T000000Z`, as it stands in the header `x-amz-date`.
    """
    headers = {name.lower(): " ".join(value.split()) for name, value in request.headers.items()}
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        (
            request.method,
            encoded_path(request.path),
            encoded_query(request.query),
            *(f"{name}:{headers[name]}" for name in sorted(headers)),
            "",
            names,
            request.payload,
        )
    )
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join((ALGORITHM, moment, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{credentials.secret}".encode()
    for part in (moment[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return f"{ALGORITHM} Credential={credentials.key_id}/{scope},SignedHeaders={names},Signature={signature}"
