"""Why something was not signed or not published, offline (`signing`) or with the online keys (`online`)."""

from __future__ import annotations

from kmend.core.errors import KmendError


class SigningError(KmendError):
    """Base: keys or repository cannot be used."""

    kind = "signing"
    default_hint = "restore the repository's file from a mirror or a backup"


class KeyFileError(SigningError):
    """A key is missing, unreadable, encrypted without a passphrase, or readable by others."""

    kind = "key-file"
    exit_status = 2
    default_hint = "see that it is the file that kmend-factory keys made, or one of the kind that its message names"


class PublishRefusedError(SigningError):
    """What was to be published must not be; nothing was changed."""

    kind = "publish-refused"
    default_hint = "levels are published in their order, each with the fixes of the one that it is built on"
    exit_status = 2


class NoRepositoryError(SigningError):
    """There is no repository where one was named."""

    kind = "no-repository"
    exit_status = 2
