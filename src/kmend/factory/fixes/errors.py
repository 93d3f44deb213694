"""What can be wrong with a fix: a class and a stable kind for each cause."""

from __future__ import annotations

from kmend.core.errors import KmendError


class FixError(KmendError):
    """A fix cannot be used. The fault is in the patch file, so programs end with status 2, as for a refusal."""

    kind = "fix"
    exit_status = 2


class UnreadableFixError(FixError):
    """The file cannot be opened, or is no regular file."""

    kind = "fix-unreadable"


class FixTooLargeError(FixError):
    """The file, one of its lines, or the number of things in it exceeds what a fix may have."""

    kind = "fix-too-large"
    default_hint = "a fix changes a few functions; is this the right file?"


class EmptyFixError(FixError):
    """There is nothing in the file."""

    kind = "fix-empty"


class BinaryFixError(FixError):
    """The file is not text, or it changes files that are not text."""

    kind = "fix-binary"


class FixLineEndsError(FixError):
    """The file has the line ends of another system."""

    kind = "fix-line-ends"


class FixHeaderError(FixError):
    """The header is not UTF-8, or one of its fields does not have the form it must have."""

    kind = "fix-header"


class UnsafePathError(FixError):
    """A path does not lead to a file inside the kernel's source tree."""

    kind = "fix-unsafe-path"
    default_hint = "paths are relative to the kernel's source tree, after one folder: a/net/unix/af_unix.c"


class UnsupportedChangeError(FixError):
    """The fix does what a livepatch cannot follow: it renames or copies, changes modes, or makes links."""

    kind = "fix-unsupported-change"


class NoHunksError(FixError):
    """The file changes nothing."""

    kind = "fix-no-hunks"


class BrokenHunkError(FixError):
    """The difference itself is damaged."""

    kind = "fix-broken-hunk"
    default_hint = "was the patch edited by hand? Make it again with diff -u or git diff"
