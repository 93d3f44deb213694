"""What the signed repository holds, as the server knows it, and its files, as the server hands them out.

`importing` verifies the repository as a host does and puts its levels and recalls into tables, `watching` sees when it has
changed, `mirror` keeps the current timestamp for answers to hosts, `refreshing` signs anew with the online keys, `files` and
`objects` hand files out from a folder or an object store, `pushing` fills the store, `agent` knows what installs the agent.
Nothing here can make a level: a repository that cannot be verified changes nothing.
"""

from kmend.server.repository.mirror import Mirror, RepositoryTimestamp

__all__ = ["Mirror", "RepositoryTimestamp"]
