"""Where the server gets what `kmend.intel` reads: Debian's changelog by the package client, kernel facts by `kmend-factory`.

What was got is kept in the cache, with when. The CNA's tree is given by whoever runs the server, as a checkout or an archive.
"""

from kmend.server.feeds.changelog import Changelog, changelog
from kmend.server.feeds.errors import FeedError
from kmend.server.feeds.facts import facts_of
from kmend.server.feeds.tree import tree

__all__ = ["Changelog", "FeedError", "changelog", "facts_of", "tree"]
