"""What the server knows of vulnerabilities, and what it answers by it: feeds come in, verdicts on hosts go out.

`bringing` goes the whole way of a feed, from its source to the notice; `sources` keeps when each was tried and what went wrong,
`importing` writes what has changed, `judging` what that means for kernel builds, `telling` says it to people, `answering` makes
verdicts.
"""

from kmend.server.knowledge.answering import (
    STALE_SECONDS,
    Group,
    HostVerdict,
    ages,
    effective_of,
    of_cve,
    of_host,
    signals_of,
)
from kmend.server.knowledge.bringing import Brought, Ways, bring, bring_file, forget
from kmend.server.knowledge.documents import advisory_of_level, openvex_of_host
from kmend.server.knowledge.errors import KnowledgeError, NotKnownError
from kmend.server.knowledge.importing import (
    Imported,
    directive,
    import_bod,
    import_changelog,
    import_cna,
    import_epss,
    import_facts,
    import_kev,
    import_ssvc,
    written,
)
from kmend.server.knowledge.judging import judge_builds, prune_answers
from kmend.server.knowledge.timeline import (
    Timeline,
    changes_of,
    clocks_of_host,
    timeline_of,
    timelines_of_host,
)

__all__ = [
    "STALE_SECONDS",
    "Brought",
    "Group",
    "HostVerdict",
    "Imported",
    "KnowledgeError",
    "NotKnownError",
    "Timeline",
    "Ways",
    "advisory_of_level",
    "ages",
    "bring",
    "bring_file",
    "changes_of",
    "clocks_of_host",
    "directive",
    "effective_of",
    "forget",
    "import_bod",
    "import_changelog",
    "import_cna",
    "import_epss",
    "import_facts",
    "import_kev",
    "import_ssvc",
    "judge_builds",
    "of_cve",
    "of_host",
    "openvex_of_host",
    "prune_answers",
    "signals_of",
    "timeline_of",
    "timelines_of_host",
    "written",
]
