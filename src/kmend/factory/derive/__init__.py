"""Fixes out of the difference between two distro kernels: a vendor's own change, cut to what one fix needs.

Offers `derive` (two package versions and the files to compare, to a patch file with its header), `select` (the same cut on
sources in memory), `compare` (what differs, by function) and `functions` (where the functions of a C file are).
"""

from kmend.factory.derive.cfunctions import Function, functions
from kmend.factory.derive.deriving import Derived, DerivedChange, DeriveError, Selection, derive, select
from kmend.factory.derive.difference import Change, compare

__all__ = [
    "Change",
    "DeriveError",
    "Derived",
    "DerivedChange",
    "Function",
    "Selection",
    "compare",
    "derive",
    "functions",
    "select",
]
