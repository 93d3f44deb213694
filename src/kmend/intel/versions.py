"""Release numbers of Linux, and which of two is in the other's past."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from kmend.core.errors import MalformedError

_RELEASE = re.compile(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,5}))?(?:\.(\d{1,5}))?")
_PACKAGE = re.compile(r"(?:\d+:)?(\d{1,3}\.\d{1,3}(?:\.\d{1,5})?)(?:[~+.-](?!rc\d).*)?")


@dataclass(frozen=True, slots=True, order=True)
class KernelVersion:
    """A release of Linux; the order is that of the numbers.

    Attributes:
        branch: of the mainline release that it is, or is a stable update of: (6, 1); up to 2.6 with three numbers.
        update: number of the stable update; 0 for the mainline release itself.
    """

    branch: tuple[int, ...]
    update: int = 0

    @classmethod
    @functools.lru_cache(maxsize=4096)  # all records of the CNA's together name some two thousand, each many times
    def parse(cls, text: str) -> KernelVersion:
        """Read `6.1`, `6.1.176`, `2.6.32` or `2.6.32.9`.

        Raises:
            MalformedError: it is none of these.
        """
        match = _RELEASE.fullmatch(text)
        if match is None:
            raise MalformedError(f"{text[:40]!r} is not a release of Linux")
        numbers = tuple(int(part) for part in match.groups() if part is not None)
        width = 3 if numbers[:2] == (2, 6) else 2
        if len(numbers) < width or len(numbers) > width + 1:
            raise MalformedError(f"{text[:40]!r} is not a release of Linux")
        return cls(numbers[:width], numbers[width] if len(numbers) > width else 0)

    @classmethod
    def of_package(cls, text: str) -> KernelVersion:
        """The release that a distro's package version begins with: `6.1.176-1` is Linux 6.1.176 and more.

        Raises:
            MalformedError: it does not begin with one; a release candidate is none, since it lacks fixes of its release.
        """
        match = _PACKAGE.fullmatch(text)
        if match is None:
            raise MalformedError(f"{text[:40]!r} does not begin with a release of Linux")
        return cls.parse(match[1])

    @property
    def is_mainline(self) -> bool:
        """Whether it is no stable update."""
        return self.update == 0

    def is_in(self, other: KernelVersion) -> bool:
        """Whether `other` has everything that this release had: it is the same branch and not older, or came off mainline later.

        The rule of the CNA's own `strak`, told of releases in place of commits.
        """
        if self.branch == other.branch:
            return self.update <= other.update
        return self.is_mainline and self.branch < other.branch

    def __str__(self) -> str:
        numbers = (*self.branch, self.update) if self.update else self.branch
        return ".".join(str(number) for number in numbers)
