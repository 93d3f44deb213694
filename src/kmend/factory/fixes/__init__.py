"""Fixes: patch files from outside, read strictly, applied exactly, and rewritten so that line numbers do not move.

Offers `read_fix` and `parse_fix` (a file or bytes to a `Fix`), `apply_series` (fixes on in-memory sources to `AppliedFile`s),
`with_line_directives` (the patched source with `#line`), and the errors that each raises. Nothing here touches a source
tree; whoever calls gives a function that reads a file of it.
"""

from kmend.factory.fixes.applying import AppliedFile, DoesNotApplyError, Placement, apply_series
from kmend.factory.fixes.errors import FixError
from kmend.factory.fixes.lines import ADDED, with_line_directives
from kmend.factory.fixes.model import ChangeKind, FileChange, Fix, Hunk, HunkLine, Statement
from kmend.factory.fixes.reading import MAX_FIX_BYTES, parse_fix, read_fix

__all__ = [
    "ADDED",
    "MAX_FIX_BYTES",
    "AppliedFile",
    "ChangeKind",
    "DoesNotApplyError",
    "FileChange",
    "Fix",
    "FixError",
    "Hunk",
    "HunkLine",
    "Placement",
    "Statement",
    "apply_series",
    "parse_fix",
    "read_fix",
    "with_line_directives",
]
