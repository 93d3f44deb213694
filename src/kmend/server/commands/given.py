"""Which server a command speaks to, with which token, and whom it trusts."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import tomllib

from kmend.core import durable
from kmend.core.errors import KmendError, SystemProblemError, UsageError
from kmend.server.config import DEFAULT_PATH, read_config

PERSONAL = Path("~/.config/kmend/server.toml")
TOKEN_VARIABLE = "KMEND_SERVER_TOKEN"  # noqa: S105 - the name of a variable, not its value
_MAX_BYTES = 64 * 1024
_MEMBERS = ("url", "token_file", "ca", "pin")


@dataclass(frozen=True, slots=True)
class Given:
    """What the command line and the environment give.

    Attributes:
        pin: SHA-256 of the certificate of the server's authority.
    """

    url: str = ""
    token_file: Path | None = None
    ca: Path | None = None
    pin: str = ""

    def completed(self) -> Given:
        """With what a person's own file and, on the server's machine, its configuration say besides.

        Raises:
            UsageError: there is no URL.
        """
        found = self._with_personal()
        if not found.url or not (found.ca or found.pin):
            found = found._with_server()
        if not found.url:
            raise UsageError(
                "no server is given",
                hint=f"set KMEND_SERVER_URL, give --server, or write {PERSONAL} (url, token_file, pin)",
            )
        return found

    def token(self) -> str:
        """The token.

        Raises:
            UsageError: there is none.
        """
        if given := os.environ.get(TOKEN_VARIABLE, "").strip():
            return given
        if self.token_file is None:
            raise UsageError("no token is given", hint=f"set {TOKEN_VARIABLE}, or give --token-file")
        return durable.read_bounded(self.token_file, max_bytes=_MAX_BYTES).decode(errors="replace").strip()

    def _with_personal(self) -> Given:
        path = PERSONAL.expanduser()
        if not path.exists():
            return self
        try:
            tree = tomllib.loads(durable.read_bounded(path, max_bytes=_MAX_BYTES).decode())
        except (ValueError, SystemProblemError) as problem:
            raise UsageError(f"{path} cannot be read: {problem}") from None
        wrong = [name for name, value in tree.items() if name not in _MEMBERS or not isinstance(value, str)]
        if wrong:
            raise UsageError(f"{path}: {wrong[0]} is not one of {', '.join(_MEMBERS)}, each a text")
        token_file, ca = tree.get("token_file"), tree.get("ca")
        return Given(
            self.url or tree.get("url", ""),
            self.token_file or (Path(token_file).expanduser() if token_file else None),
            self.ca or (Path(ca).expanduser() if ca and not self.pin else None),
            self.pin or (tree.get("pin", "") if not self.ca else ""),
        )

    def _with_server(self) -> Given:
        """On the server's own machine; nothing changes where its configuration is not, or is not to be read."""
        try:
            config = read_config(Path(os.environ.get("KMEND_SERVER_CONFIG", str(DEFAULT_PATH))))
        except KmendError:
            return self
        if self.url and self.url.rstrip("/") != config.server.public_url.rstrip("/"):
            return self
        ca = config.authority if not (self.ca or self.pin) else self.ca
        return replace(self, url=config.server.public_url, ca=ca)
