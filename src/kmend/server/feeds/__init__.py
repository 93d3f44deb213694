"""Where the server gets what `kmend.intel` reads: over the network, by the package client, out of git, from a file.

Nothing is fetched that is not configured. What each source is, is told by `places`; `fetching` asks for a file only if it has
changed, `repositories` reads a commit or what two of them differ in, `changelog` asks the package client, `facts` asks
`kmend-factory`. Nothing here knows the database.
"""

from kmend.server.feeds.changelog import Changelog, changelog
from kmend.server.feeds.errors import FeedError
from kmend.server.feeds.facts import facts_of
from kmend.server.feeds.fetching import Fetched, fetch
from kmend.server.feeds.places import CHANGELOG, FEEDS, Place, is_changelog, kind_of, place_of
from kmend.server.feeds.repositories import Repository
from kmend.server.feeds.tree import tree

__all__ = [
    "CHANGELOG",
    "FEEDS",
    "Changelog",
    "FeedError",
    "Fetched",
    "Place",
    "Repository",
    "changelog",
    "facts_of",
    "fetch",
    "is_changelog",
    "kind_of",
    "place_of",
    "tree",
]
