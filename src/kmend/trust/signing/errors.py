"""Why something was not signed or not published."""

from __future__ import annotations

from kmend.core.errors import KmendError


class SigningError(KmendError):
    """Base: keys or repository cannot be used."""

    kind = "signing"


class KeyFileError(SigningError):
    """A key is missing, unreadable, encrypted without a passphrase, or readable by others."""

    kind = "key-file"


class PublishRefusedError(SigningError):
    """What was to be published must not be; nothing was changed."""

    kind = "publish-refused"
    exit_status = 2
