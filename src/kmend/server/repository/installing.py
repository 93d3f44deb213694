"""The one line that takes a host in: what it fetches, what that must be, and whom the host is to believe from then on.

The digest of the script comes from the repository's metadata, which the offline keys have signed, and the script holds the
digests of the packages. So whoever compares the line's digest with what the publisher's keys say has checked all of it; the
server only carries it. What is fetched is fetched without looking at TLS, since nothing of it is used before its digest was.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from kmend.server.repository.agent import AgentFile


@dataclass(frozen=True, slots=True)
class Installation:
    """What a host is told.

    Attributes:
        repository: URL of the repository.
        root_version, root_sha256: of the trust root that it is to start from.
        server: URL of this server.
        pin: SHA-256 of the certificate of the server's authority; empty if it shows somebody else's certificate.
        script: the installing script, as signed metadata describes it.
    """

    repository: str
    root_version: int
    root_sha256: str
    server: str
    pin: str
    script: AgentFile


def one_line(what: Installation, secret: str) -> str:
    """What a person types on a host, as root.

    Args:
        secret: of the enrolment key. It goes into the script's environment, which other users of the host cannot see.
    """
    url, file = f"{what.repository}/{what.script.path}", what.script.name
    words = [
        "--repository",
        what.repository,
        "--root",
        f"{what.root_version}:{what.root_sha256}",
        "--server",
        what.server,
    ]
    if what.pin:
        words += ["--pin", what.pin]
    unverified = "ssl, sys, urllib.request as r; o = r.urlopen(sys.argv[2], context=ssl._create_unverified_context()); "
    python = f"import {unverified}open(sys.argv[1], 'wb').write(o.read(1000000))"
    return (
        f"u={shlex.quote(url)} f={file}; "
        f'{{ curl -fsSkLo $f $u || wget -q --no-check-certificate -O $f $u || python3 -c "{python}" $f $u; }} && '
        f"echo '{what.script.sha256}  {file}' | sha256sum -c --quiet && "
        f"KMEND_ENROLMENT_KEY={shlex.quote(secret)} sh {file} {shlex.join(words)}"
    )
