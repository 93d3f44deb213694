"""Titles and dates out of a Debian changelog."""

from __future__ import annotations

from kmend.factory.derive.changelog import date_of, title_of

CHANGELOG = """\
linux (6.1.187-1) bookworm-security; urgency=high

  * New upstream stable update:
    https://www.kernel.org/pub/linux/kernel/v6.x/ChangeLog-6.1.181
    - [x86] KVM: x86/mmu: Fix use-after-free on vendor
      module reload (CVE-2026-68428)
    - [arm64,armhf] two tags: of one kind (CVE-2026-1, CVE-2026-10001)
    - af_unix: Reject SIOCATMARK on non-stream sockets (CVE-2026-52928)
    - without a number

  [ Somebody Else ]
  * [rt] another form (CVE-2026-20000)

 -- Jane Doe <jane@example.org>  Mon, 07 Sep 2026 21:33:42 +0200

linux (6.1.180-1) bookworm-security; urgency=high

  * older

 -- Jane Doe <jane@example.org>  Tue, 04 Aug 2026 01:33:42 +0200
"""


def test_titles() -> None:
    assert title_of(CHANGELOG, "CVE-2026-52928") == "af_unix: Reject SIOCATMARK on non-stream sockets"
    assert title_of(CHANGELOG, "CVE-2026-68428") == "KVM: x86/mmu: Fix use-after-free on vendor module reload"
    assert title_of(CHANGELOG, "CVE-2026-20000") == "another form"
    assert title_of(CHANGELOG, "CVE-2026-1000") is None
    assert title_of("", "CVE-2026-1000") is None


def test_dates() -> None:
    assert date_of(CHANGELOG, "6.1.187-1") == "2026-09-07"
    assert date_of(CHANGELOG, "6.1.180-1") == "2026-08-04"
    assert date_of(CHANGELOG, "6.1.1-1") is None
    assert date_of("linux (1-1) x; y\n -- Jane <j@e.org>  someday\n", "1-1") is None
