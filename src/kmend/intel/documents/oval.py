"""OVAL 5.11 of one level, for `oscap oval eval` on a host: vulnerable, unless a livepatch is in force that closes the CVE.

A definition of a CVE is true where the kernel build runs, by release and version string, and not both of these hold:

- the kernel has a livepatch of ours that is enabled, and none of ours is in transition (`/sys/kernel/livepatch`,
  Documentation/ABI/testing/sysfs-kernel-livepatch);
- the agent names the CVE as live-patched (`/run/kmend/cvelist`, one a line).

The kernel's word is needed since the agent's files stay behind when somebody takes the module off by hand; the agent's, since a
module's name does not say which CVEs it closes. What a later level closes is therefore seen without a new document, and so is a
recall that takes a fix away.

One definition of class `patch` says whether the level is wanting: true where no level is in force, or a lower one.

The kernel is asked for twice. OpenSCAP leaves `uname` out ("not applicable") when it looks at a host from a container, by
OSCAP_PROBE_ROOT; `/proc/sys/kernel` of that root then tells.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from kmend import __version__
from kmend.intel.documents.advisory import Advisory, moment

_MAIN = "http://oval.mitre.org/XMLSchema/oval-definitions-5"
_COMMON = "http://oval.mitre.org/XMLSchema/oval-common-5"
_NAMESPACES = {
    "xmlns": _MAIN,
    "xmlns:oval": _COMMON,
    "xmlns:ind": f"{_MAIN}#independent",
    "xmlns:unix": f"{_MAIN}#unix",
}
_LIVEPATCH = r"^/sys/kernel/livepatch/kmend_[0-9]+_[0-9a-f]{8}$"
_STATE = r'"left":[0-9]+,"level":([0-9]+),"module":"kmend_[0-9]+_[0-9a-f]{8}"'
"""Of `livepatch` in state.json: the agent writes canonical JSON, members in order, without white space."""
_CONTROL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_RUNS, _ENABLED, _SETTLED, _LEVEL, _RELEASE, _VERSION = 1, 2, 3, 4, 5, 6


class _Ids:
    """IDs, the same in every document of a kernel build for the same thing."""

    def __init__(self, advisory: Advisory) -> None:
        self._space = f"kmend.{advisory.build_id[:12]}"

    def of(self, kind: str, number: int) -> str:
        return f"oval:{self._space}:{kind}:{number}"


def oval(advisory: Advisory) -> bytes:
    """The document, in UTF-8.

    Args:
        advisory: of a level; `release` and `version` are both compared, since two uploads may share a release.
    """
    ids, version = _Ids(advisory), str(advisory.level)
    root = ElementTree.Element("oval_definitions", _NAMESPACES)
    generator = ElementTree.SubElement(root, "generator")
    for name, text in (
        ("product_name", "kmend"),
        ("product_version", __version__),
        ("schema_version", "5.11"),
        ("timestamp", moment(advisory.modified).removesuffix("Z")),
    ):
        _leaf(generator, f"oval:{name}", text)
    definitions = ElementTree.SubElement(root, "definitions")
    cves = [cve for cve in advisory.cves if cve not in advisory.unaffected]
    _patch(definitions, advisory, ids, version)
    for cve in cves:
        _vulnerability(definitions, advisory, ids, version, cve)
    _tests(ElementTree.SubElement(root, "tests"), ids, cves, advisory)
    _objects(ElementTree.SubElement(root, "objects"), ids, cves, advisory)
    _states(ElementTree.SubElement(root, "states"), ids, advisory)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _patch(parent: ElementTree.Element, advisory: Advisory, ids: _Ids, version: str) -> None:
    title = f"livepatch level {advisory.level} or later for {advisory.release} ({advisory.package})"
    told = f"True where none is in force. It closes {', '.join(advisory.cves) or 'no CVE'}, without a restart."
    kind = "patch"
    if advisory.withdrawn is not None:
        told += f" Level {advisory.level} is recalled, and must not be loaded: {advisory.withdrawn.reason}"
        kind = "miscellaneous"
    definition = _definition(parent, advisory, ids.of("def", advisory.level), version, kind, title, told, advisory.cves)
    criteria = ElementTree.SubElement(definition, "criteria", operator="AND")
    _running(criteria, ids)
    inside = ElementTree.SubElement(criteria, "criteria", operator="AND", negate="true")
    _criterion(inside, ids, _ENABLED, "a livepatch of kmend's is enabled")
    _criterion(inside, ids, _SETTLED, "its transition is over")
    _criterion(inside, ids, _LEVEL, f"it is of level {advisory.level} or later")


def _vulnerability(parent: ElementTree.Element, advisory: Advisory, ids: _Ids, version: str, cve: str) -> None:
    about = advisory.titles.get(cve, "")
    title = f"{cve}: {about}" if about else cve
    told = f"{cve} in {advisory.release} ({advisory.package}); closed without a restart by livepatch level {advisory.level}."
    definition = _definition(
        parent, advisory, ids.of("def", _number(cve)), version, "vulnerability", title, told, (cve,)
    )
    criteria = ElementTree.SubElement(definition, "criteria", operator="AND")
    _running(criteria, ids)
    inside = ElementTree.SubElement(criteria, "criteria", operator="AND", negate="true")
    _criterion(inside, ids, _ENABLED, "a livepatch of kmend's is enabled")
    _criterion(inside, ids, _SETTLED, "its transition is over")
    _criterion(inside, ids, _number(cve), f"the agent names {cve} as live-patched")


def _running(criteria: ElementTree.Element, ids: _Ids) -> None:
    _criterion(criteria, ids, _RUNS, "the kernel build runs")
    _criterion(criteria, ids, _RELEASE, "the kernel's release is this one, by /proc")
    _criterion(criteria, ids, _VERSION, "the kernel's version string is this one, by /proc")


def _definition(
    parent: ElementTree.Element,
    advisory: Advisory,
    name: str,
    version: str,
    kind: str,
    title: str,
    told: str,
    cves: Sequence[str],
) -> ElementTree.Element:
    definition = ElementTree.SubElement(parent, "definition", {"id": name, "version": version, "class": kind})
    metadata = ElementTree.SubElement(definition, "metadata")
    _leaf(metadata, "title", title)
    affected = ElementTree.SubElement(metadata, "affected", family="unix")
    _leaf(affected, "platform", advisory.ecosystem.replace(":", " "))
    _leaf(affected, "product", f"{advisory.source} {advisory.package}")
    for cve in cves:
        place = f"https://www.cve.org/CVERecord?id={cve}"
        ElementTree.SubElement(metadata, "reference", source="CVE", ref_id=cve, ref_url=place)
    _leaf(metadata, "description", told)
    return definition


def _tests(parent: ElementTree.Element, ids: _Ids, cves: Sequence[str], advisory: Advisory) -> None:
    running = _test(
        parent, "unix:uname_test", ids, _RUNS, "all", f"{advisory.release} runs, as {advisory.package} has it"
    )
    ElementTree.SubElement(running, "unix:object", object_ref=ids.of("obj", _RUNS))
    ElementTree.SubElement(running, "unix:state", state_ref=ids.of("ste", _RUNS))
    for number, check, comment in (
        (_ENABLED, "at least one", "a livepatch of kmend's is enabled"),
        (_SETTLED, "all", "no livepatch of kmend's is in transition"),
        (_LEVEL, "all", f"the agent says level {advisory.level} or later"),
    ):
        test = _test(parent, "ind:textfilecontent54_test", ids, number, check, comment)
        ElementTree.SubElement(test, "ind:object", object_ref=ids.of("obj", number))
        ElementTree.SubElement(test, "ind:state", state_ref=ids.of("ste", number))
    for number, comment in (
        (_RELEASE, f"/proc names {advisory.release}"),
        (_VERSION, f"/proc names {advisory.package}"),
    ):
        test = _test(parent, "ind:textfilecontent54_test", ids, number, "all", comment)
        ElementTree.SubElement(test, "ind:object", object_ref=ids.of("obj", number))
    for cve in cves:
        test = _test(parent, "ind:textfilecontent54_test", ids, _number(cve), "all", f"{cve} is on the agent's list")
        ElementTree.SubElement(test, "ind:object", object_ref=ids.of("obj", _number(cve)))


def _objects(parent: ElementTree.Element, ids: _Ids, cves: Sequence[str], advisory: Advisory) -> None:
    ElementTree.SubElement(parent, "unix:uname_object", id=ids.of("obj", _RUNS), version="1")
    for number, name in ((_ENABLED, "enabled"), (_SETTLED, "transition")):
        found = ElementTree.SubElement(parent, "ind:textfilecontent54_object", id=ids.of("obj", number), version="1")
        _leaf(found, "ind:path", _LIVEPATCH, operation="pattern match")
        _leaf(found, "ind:filename", name)
        _match(found, "^([01])$")
    for number, name, text in ((_RELEASE, "osrelease", advisory.release), (_VERSION, "version", advisory.version)):
        _file(parent, ids.of("obj", number), f"/proc/sys/kernel/{name}", f"^{re.escape(text)}$")
    _file(parent, ids.of("obj", _LEVEL), "/run/kmend/state.json", _STATE)
    for cve in cves:
        _file(parent, ids.of("obj", _number(cve)), "/run/kmend/cvelist", f"^{cve}$")


def _states(parent: ElementTree.Element, ids: _Ids, advisory: Advisory) -> None:
    running = ElementTree.SubElement(parent, "unix:uname_state", id=ids.of("ste", _RUNS), version="1")
    _leaf(running, "unix:os_release", advisory.release)
    _leaf(running, "unix:os_version", advisory.version)
    for number, value, operation in (
        (_ENABLED, "1", "equals"),
        (_SETTLED, "0", "equals"),
        (_LEVEL, str(advisory.level), "greater than or equal"),
    ):
        state = ElementTree.SubElement(parent, "ind:textfilecontent54_state", id=ids.of("ste", number), version="1")
        _leaf(state, "ind:subexpression", value, datatype="int", operation=operation)


def _test(
    parent: ElementTree.Element, tag: str, ids: _Ids, number: int, check: str, comment: str
) -> ElementTree.Element:
    return ElementTree.SubElement(
        parent, tag, id=ids.of("tst", number), version="1", check=check, check_existence="at_least_one_exists", comment=comment
    )  # fmt: skip


def _file(parent: ElementTree.Element, name: str, path: str, pattern: str) -> None:
    found = ElementTree.SubElement(parent, "ind:textfilecontent54_object", id=name, version="1")
    _leaf(found, "ind:filepath", path)
    _match(found, pattern)


def _match(parent: ElementTree.Element, pattern: str) -> None:
    _leaf(parent, "ind:pattern", pattern, operation="pattern match")
    _leaf(parent, "ind:instance", "1", datatype="int")


def _criterion(parent: ElementTree.Element, ids: _Ids, number: int, comment: str) -> None:
    ElementTree.SubElement(parent, "criterion", test_ref=ids.of("tst", number), comment=comment)


def _leaf(parent: ElementTree.Element, tag: str, text: str, **attributes: str) -> None:
    ElementTree.SubElement(parent, tag, attributes).text = _CONTROL.sub("?", text)


def _number(cve: str) -> int:
    """CVE-2026-53361: 202653361. Levels stay below it, as they have six digits."""
    _, year, number = cve.split("-")
    return int(year + number)
