"""What others publish of vulnerabilities, read into plain values.

Each feed takes content (an archive, a file's text) and gives what it says, together with what could not be read and why: a record
that is broken is set aside with its message, and never dropped in silence. Members that a feed's next form adds are ignored. What
is fetched, how often, and how old it may be is the caller's.
"""

from kmend.intel.feeds.archives import unpacked
from kmend.intel.feeds.aside import Aside
from kmend.intel.feeds.bod import BodRow, read_bod
from kmend.intel.feeds.cna import Cna, CveRecord, read_archive, read_folder, read_tree
from kmend.intel.feeds.debian import DebianFix, DebianRelease, read_changelog
from kmend.intel.feeds.epss import Epss, read_epss
from kmend.intel.feeds.fedramp import Column, FedRamp, read_fedramp
from kmend.intel.feeds.kev import Kev, KevEntry, read_kev
from kmend.intel.feeds.ssvc import Decision, Ssvc, read_place, read_records

__all__ = [
    "Aside",
    "BodRow",
    "Cna",
    "Column",
    "CveRecord",
    "DebianFix",
    "DebianRelease",
    "Decision",
    "Epss",
    "FedRamp",
    "Kev",
    "KevEntry",
    "Ssvc",
    "read_archive",
    "read_bod",
    "read_changelog",
    "read_epss",
    "read_fedramp",
    "read_folder",
    "read_kev",
    "read_place",
    "read_records",
    "read_tree",
    "unpacked",
]
