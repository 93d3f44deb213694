"""Which CVEs a kernel build has: feeds that say what is known, and the rules that say what follows for one build.

Feeds (`kmend.intel.feeds`) read what others publish and keep what they could not read beside it. `ranges` knows which releases a
CVE is in, `applicability` what that means for a build whose facts are known, `outlook` what stands open on it. Everything here is
a function of plain data; fetching and storing is the server's.
"""

from kmend.intel.applicability import Applicability, Build, Presence, Reason, judge
from kmend.intel.outlook import Outlook, outlook
from kmend.intel.ranges import Pair, is_vulnerable
from kmend.intel.versions import KernelVersion

__all__ = [
    "Applicability",
    "Build",
    "KernelVersion",
    "Outlook",
    "Pair",
    "Presence",
    "Reason",
    "is_vulnerable",
    "judge",
    "outlook",
]
