"""What the server knows of vulnerabilities, and what it answers by it: feeds come in, verdicts on hosts go out."""

from kmend.server.knowledge.answering import Group, HostVerdict, effective_of, of_cve, of_host
from kmend.server.knowledge.errors import KnowledgeError, NotKnownError
from kmend.server.knowledge.importing import (
    Imported,
    import_changelog,
    import_cna,
    import_epss,
    import_facts,
    import_kev,
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
    "Group",
    "HostVerdict",
    "Imported",
    "KnowledgeError",
    "NotKnownError",
    "Timeline",
    "changes_of",
    "clocks_of_host",
    "effective_of",
    "import_changelog",
    "import_cna",
    "import_epss",
    "import_facts",
    "import_kev",
    "judge_builds",
    "of_cve",
    "of_host",
    "prune_answers",
    "timeline_of",
    "timelines_of_host",
]
