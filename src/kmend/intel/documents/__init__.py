"""What scanners and auditors read: verdicts in the forms that they know, made of plain values."""

from kmend.intel.documents.openvex import Observed, openvex
from kmend.intel.documents.osv import Advisory, osv
from kmend.intel.documents.purls import purls

__all__ = ["Advisory", "Observed", "openvex", "osv", "purls"]
