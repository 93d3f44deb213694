"""What rings stand under, what is accepted for a time, and what follows of both: deadlines that are missed or will be, and
which open CVE comes first.
"""

from kmend.server.compliance import exceptions, policies
from kmend.server.compliance.errors import ComplianceError, NotThereError, StandsOtherwiseError

__all__ = ["ComplianceError", "NotThereError", "StandsOtherwiseError", "exceptions", "policies"]
