"""`kmend enrol`: be taken into a server's fleet.

    kmend enrol --server URL [--pin DIGEST | --ca FILE] --key KEY [--again]

The key goes to the server and is kept nowhere. What is kept: the server's authority and a drop-in of configuration in
/etc/kmend, and this host's own identity, key and counter in the service's folder.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from kmend.agent import checking, exchange, link, machine, reporting
from kmend.agent.config import Config, ServerConfig
from kmend.agent.conversation import ServerError
from kmend.agent.identity import Credentials
from kmend.agent.session import Session
from kmend.core import durable
from kmend.core.errors import SystemProblemError, UsageError
from kmend.trust import hostkey
from kmend.trust.pinning import fetch_authority
from kmend.trust.transport import Transport

AUTHORITY_PATH = "/v1/authority"
DROP_IN = "20-server.toml"
CA_FILE = "server-ca.pem"
MAX_KEY_BYTES = 200
MAX_CA_BYTES = 256 * 1024
_CERTIFICATE = re.compile("-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Membership:
    """What became of it.

    Attributes:
        new: this host was taken in now; False if it was enrolled there before.
    """

    host: str
    server: str
    url: str
    ring: str
    new: bool
    format: str = "kmend-enrolment/1"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for.

    Attributes:
        pin: digest of the server's authority; ca: path of its certificate. At most one; with neither the usual
            authorities count.
        again: be taken in anew, as another host.
    """

    url: str
    key: str
    pin: str = ""
    ca: str = ""
    again: bool = False


def read_key(given: str | None, file: str | None, environment: str | None) -> str:
    """The enrolment key from where it was given.

    Raises:
        UsageError: from nowhere, or it cannot be read.
    """
    if file is not None:
        try:
            return durable.read_bounded(Path(file), max_bytes=MAX_KEY_BYTES).decode().strip()
        except (SystemProblemError, UnicodeDecodeError):
            raise UsageError(f"the enrolment key cannot be read from {file}") from None
    key = given if given is not None else environment
    if not key:
        raise UsageError(
            "no enrolment key is given", hint="--key-file FILE, or KMEND_ENROLMENT_KEY in the environment, or --key KEY"
        )
    return key.strip()


def enrol(session: Session, wanted: Wanted) -> Membership:
    """Be taken in, as root.

    Raises:
        ServerError: the server refuses, or this host is enrolled elsewhere: also at another server of the same URL.
        TrustError: it cannot be reached, or is not the one that is meant.
        SystemProblemError: something cannot be written.
    """
    url = wanted.url.rstrip("/")
    _check(url, wanted)
    credentials = Credentials(session.paths)
    before = credentials.identity()
    if before is not None and not wanted.again:
        if before.url == url:
            _refuse_another_authority(session, url, wanted.pin.lower())
            if session.config.server.url != url:  # killed before it was written
                _configure(session, url, _authority(session, url, wanted))
                _tell_service()
            return Membership(before.host, before.server, url, "", new=False)
        raise ServerError(f"this host is enrolled at {before.url}", hint="to leave it: kmend enrol --again")
    ca_file = _authority(session, url, wanted)
    config = Config(server=ServerConfig(url=url, ca_file=ca_file), network=session.config.network)
    here = machine.digest(session.paths)
    seed = credentials.coming_seed(here)
    with contextlib.closing(Transport(link.network(config, checking.network(session.config)))) as transport:
        facts, sign = reporting.facts(session, here), functools.partial(hostkey.sign, seed)
        course = exchange.enrol(wanted.key, url, hostkey.public_key(seed), facts, sign)
        try:
            identity, ring = link.drive(course, url, transport)
        except ServerError as problem:
            if problem.word == "enrolment-key":
                credentials.forget_coming()
            raise
    credentials.keep(identity, seed)
    _configure(session, url, ca_file)
    _tell_service()
    return Membership(identity.host, identity.server, url, ring, new=True)


def standing(session: Session) -> Membership | None:
    """Where this host is enrolled; None if it is nowhere."""
    identity = Credentials(session.paths).identity()
    if identity is None:
        return None
    return Membership(identity.host, identity.server, identity.url, "", new=False)


def _check(url: str, wanted: Wanted) -> None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment or '"' in url:
        raise UsageError(f"{url[:100]!r} is not a server's URL", hint="write https://name[:port]")
    if parts.scheme == "http" and (wanted.pin or wanted.ca):
        raise UsageError("a pin means nothing without TLS", hint="write https://")
    if wanted.pin and wanted.ca:
        raise UsageError("give --pin or --ca, not both")


def _authority(session: Session, url: str, wanted: Wanted) -> str:
    """The path of the server's authority, kept in /etc/kmend; empty if the usual ones count."""
    if wanted.pin:
        text = fetch_authority(f"{url}{AUTHORITY_PATH}", wanted.pin.lower()).encode()
    elif wanted.ca:
        text = durable.read_bounded(Path(wanted.ca), max_bytes=MAX_CA_BYTES)
    else:
        return ""
    durable.make_folder(session.paths.config)
    path = session.paths.config / CA_FILE
    durable.write_durably(path, text)
    return str(path)


def _refuse_another_authority(session: Session, url: str, pin: str) -> None:
    """An enrolled host keeps its server's authority; a line with another pin is of a server that was made anew at that URL."""
    server = session.config.server
    file = server.ca_file if server.url.rstrip("/") == url else str(session.paths.config / CA_FILE)
    if not pin or not file or not (kept := Path(file)).exists():
        return
    if pin not in _pins(kept):
        raise ServerError(
            f"this host is enrolled at {url} already, with another server: the pin is not of the authority in {kept}",
            hint="if the server was made anew: kmend enrol --again",
        )


def _pins(path: Path) -> set[str]:
    """The digests of the certificates in a file of PEM."""
    found = set()
    for text in _CERTIFICATE.findall(durable.read_bounded(path, max_bytes=MAX_CA_BYTES).decode("ascii", "replace")):
        with contextlib.suppress(ValueError):
            found.add(hashlib.sha256(ssl.PEM_cert_to_DER_cert(text)).hexdigest())
    return found


def _configure(session: Session, url: str, ca_file: str) -> None:
    folder = session.paths.config / "agent.toml.d"
    durable.make_folder(folder)
    lines = ["# Written by kmend enrol.", "[server]", f'url = "{url}"']
    if ca_file:
        lines.append(f'ca_file = "{ca_file}"')
    durable.write_durably(folder / DROP_IN, ("\n".join(lines) + "\n").encode())


def _tell_service() -> None:
    """Have a service that is at work take the new configuration; on a host without systemd there is none."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        if Path("/run/systemd/system").is_dir() and os.geteuid() == 0:
            command = ["systemctl", "--no-block", "try-reload-or-restart", "kmend-agent.service"]
            subprocess.run(command, check=False, timeout=10, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
