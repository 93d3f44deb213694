"""What can be wrong with what the server does to a repository."""

from __future__ import annotations

from kmend.core.errors import KmendError


class RepositoryError(KmendError):
    """Base: something about the server's repository failed."""

    kind = "server-repository"
    default_hint = "kmend-server check tells what is not in order"


class AdoptionError(RepositoryError):
    """A trust root is missing, or cannot be taken."""

    kind = "adoption"
    exit_status = 2


class ObjectStoreError(RepositoryError):
    """The object store refused, or does not answer."""

    kind = "object-store"
    default_hint = "look at [object_store] in the configuration, and at what the store's own log says"
