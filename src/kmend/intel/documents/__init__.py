"""What scanners and auditors read: verdicts in the forms that they know, made of plain values."""

from kmend.intel.documents.advisory import Advisory, Withdrawal, advisory_name
from kmend.intel.documents.csaf import Publisher, csaf, file_name
from kmend.intel.documents.openvex import Observed, Products, openvex
from kmend.intel.documents.osv import osv
from kmend.intel.documents.oval import oval
from kmend.intel.documents.purls import Headers, headers, purls

__all__ = [
    "Advisory",
    "Headers",
    "Observed",
    "Products",
    "Publisher",
    "Withdrawal",
    "advisory_name",
    "csaf",
    "file_name",
    "headers",
    "openvex",
    "osv",
    "oval",
    "purls",
]
