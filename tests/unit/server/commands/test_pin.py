"""The command line believes the pinned authority, and nothing that comes with it."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest
from tests.unit.trust.authority import Authority
from tests.unit.trust.loopback import reply, serving

from kmend.server.commands.client import ServerAnswerError, _pinned


@pytest.mark.parametrize("attempt", range(6))
def test_a_second_certificate_behind_the_pinned_one_is_not_let_in(tmp_path: Path, attempt: int) -> None:
    (tmp_path / "other").mkdir()
    pinned, evil = (Authority(folder).file().read_text() for folder in (tmp_path, tmp_path / "other"))
    pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(pinned)).hexdigest()
    with serving(lambda request: reply(200, (pinned + evil).encode())) as server:
        try:
            assert _pinned(server.url, pin) == pinned
        except ServerAnswerError:
            assert "=" not in pinned
    with (
        serving(lambda request: reply(200, evil.encode())) as server,
        pytest.raises(ServerAnswerError, match="not the pinned"),
    ):
        _pinned(server.url, pin)
