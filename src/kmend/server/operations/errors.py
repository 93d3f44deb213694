"""Why a server was not made, or does not run."""

from __future__ import annotations

from kmend.core.errors import KmendError


class OperationError(KmendError):
    """Base: something about running the server failed."""

    kind = "operation"
    default_hint = "kmend-server check tells what is not in order"


class FoundedError(OperationError):
    """There is a server already; nothing was changed."""

    kind = "founded"
    exit_status = 2


class CertificateFileError(OperationError):
    """A certificate or its key cannot be used."""

    kind = "certificate-file"
    exit_status = 2


class BackupError(OperationError):
    """A backup cannot be written where it was wanted, or is none."""

    kind = "backup"
    exit_status = 2
    default_hint = "give another file"
