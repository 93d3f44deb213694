"""What can be wrong with a repository, each cause an error of its own with a stable kind.

TrustError
  RootError            the trust root given at install is unusable
  UnreachableError     no answer, or an HTTP error
  SlowError            answers, but too slowly
  MissingError         a file that signed metadata names is not there
  TooLargeError        more bytes than were announced or are believable
  SignatureError       not signed by the keys that must sign it
  ExpiredError         signed, but its time has passed
  ClockError           this host's clock is probably wrong
  RollbackError        older than what this host has seen
  MismatchError        the content is not what the signed metadata says
  BrokenMetadataError  the metadata itself cannot be read
"""

from __future__ import annotations

from kmend.core.errors import KmendError


class TrustError(KmendError):
    """Base: the repository cannot be trusted, or cannot be read."""

    kind = "trust"


class RootError(TrustError):
    """The trust root given at install is missing, unreadable or not signed by itself."""

    kind = "trust-root"


class UnreachableError(TrustError):
    """The repository does not answer, or answers with an error."""

    kind = "repository-unreachable"


class SlowError(UnreachableError):
    """The repository answers too slowly; perhaps somebody holds updates back (TUF: slow retrieval)."""

    kind = "repository-slow"


class MissingError(TrustError):
    """A file that the signed metadata names is not in the repository."""

    kind = "repository-missing"


class TooLargeError(TrustError):
    """More bytes than the signed metadata allows (TUF: endless data)."""

    kind = "repository-too-large"


class SignatureError(TrustError):
    """Metadata does not carry the signatures that it must carry."""

    kind = "repository-signature"


class ExpiredError(TrustError):
    """Metadata is signed, but its time has passed (TUF: freeze)."""

    kind = "repository-expired"


class ClockError(TrustError):
    """The clock of this host contradicts what the repository or the server says."""

    kind = "clock-suspect"


class RollbackError(TrustError):
    """The repository offers something older than this host has already seen."""

    kind = "repository-rollback"


class MismatchError(TrustError):
    """Content differs from what the signed metadata says of it."""

    kind = "repository-mismatch"


class BrokenMetadataError(TrustError):
    """The repository's metadata is not of the form that TUF prescribes."""

    kind = "repository-malformed"
