"""The base score of a CVSS 3 vector: FIRST, CVSS v3.1 specification, section 7.1 and appendix A.

The kernel's CNA gives a vector to a third of its CVEs, scored as the worst case. Frameworks ask for the number; nothing here is
sorted by it.
"""

from __future__ import annotations

import re

_VECTOR = re.compile(r"CVSS:3\.[01]((?:/[A-Z]{1,3}:[A-Z])+)")
_VALUES = {
    "AV": {"N": 0.85, "A": 0.62, "L": 0.55, "P": 0.2},
    "AC": {"L": 0.77, "H": 0.44},
    "UI": {"N": 0.85, "R": 0.62},
    "C": {"H": 0.56, "L": 0.22, "N": 0.0},
    "I": {"H": 0.56, "L": 0.22, "N": 0.0},
    "A": {"H": 0.56, "L": 0.22, "N": 0.0},
}
_PRIVILEGES = {"U": {"N": 0.85, "L": 0.62, "H": 0.27}, "C": {"N": 0.85, "L": 0.68, "H": 0.5}}


def base_score(vector: str) -> float | None:
    """0 to 10, with one decimal; None for what is no vector of CVSS 3.0 or 3.1, or no whole one."""
    match = _VECTOR.fullmatch(vector)
    if match is None:
        return None
    metrics = dict(part.split(":") for part in match[1][1:].split("/"))
    try:
        value = {name: known[metrics[name]] for name, known in _VALUES.items()}
        changed = {"U": False, "C": True}[metrics["S"]]
        privileges = _PRIVILEGES[metrics["S"]][metrics["PR"]]
    except KeyError:
        return None
    lost = 1 - (1 - value["C"]) * (1 - value["I"]) * (1 - value["A"])
    impact = 7.52 * (lost - 0.029) - 3.25 * (lost - 0.02) ** 15 if changed else 6.42 * lost
    if impact <= 0:
        return 0.0
    exploitability = 8.22 * value["AV"] * value["AC"] * privileges * value["UI"]
    return _up(min((impact + exploitability) * (1.08 if changed else 1.0), 10.0))


def _up(score: float) -> float:
    """To the next tenth; in whole numbers, as appendix A does it, since 4.02 + 0.0 may be 4.000000001."""
    whole = round(score * 100_000)
    return whole / 100_000 if whole % 10_000 == 0 else (whole // 10_000 + 1) / 10
