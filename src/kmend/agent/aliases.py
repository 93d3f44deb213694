"""Names that people know from other livepatching tools: taken, and said to be ours, or answered with what to do instead. Pure.

`--info`, `--patch-info`, `--set-sticky-patch` and their kind are kcarectl's; `show`, `remove`, `upgrade` Uptrack's; `refresh`,
`enable`, `disable` Canonical Livepatch's; `list`, `load`, `install`, `signal` kpatch's; `blocking` klp's. Names are taken over,
exit codes are not.
"""

from __future__ import annotations

from collections.abc import Sequence

from kmend.core.errors import UsageError

TAKEN: dict[str, tuple[str, ...]] = {
    "--info": ("status",),
    "--status": ("status", "--exit-code"),
    "--check": ("check",),
    "--update": ("update",),
    "--auto-update": ("update",),
    "--smart-update": ("update",),
    "--patch-info": ("patches",),
    "--uname": ("uname",),
    "--unload": ("unload",),
    "--doctor": ("doctor",),
    "show": ("patches",),
    "upgrade": ("update",),
    "remove": ("unload",),
    "refresh": ("update",),
    "info": ("status",),
    "list": ("patches",),
    "load": ("update",),
    "blocking": ("status",),
}
"""Their name to our words."""

ELSEWHERE: dict[str, str] = {
    "--register": "a host needs no registration: set repository.url and repository.root in /etc/kmend/agent.toml",
    "--unregister": "there is no registration; systemctl disable --now kmend-agent ends the checks",
    "--tag": "hosts carry no tags here",
    "--set-sticky-patch": "set apply.pin_level or apply.pin_date in /etc/kmend/agent.toml",
    "enable": "systemctl enable --now kmend-agent keeps this host patched; apply.automatic in /etc/kmend/agent.toml decides",
    "disable": "kmend unload takes the livepatch off; apply.automatic = false in /etc/kmend/agent.toml keeps it off",
    "install": "kmend update loads a level, and what ran well is loaded again at boot by itself",
    "uninstall": "kmend unload takes the livepatch off",
    "signal": "kmend signals tasks that hold a transition up by itself (timing.signal in /etc/kmend/agent.toml)",
}
"""Their name to what one does here."""

_DROPPED = {
    "show": ("--available",),
    "remove": ("--all",),
    "upgrade": ("-y", "--all"),
    "unload": ("--all",),
    "load": ("--all",),
}


def translated(words: Sequence[str]) -> tuple[list[str], str]:
    """Our words for theirs, and a remark for people, empty if nothing was changed.

    Raises:
        UsageError: the name is known, and kmend has nothing of the kind; the hint says what to do.
    """
    if not words:
        return [], ""
    name, rest = words[0], list(words[1:])
    if name in ELSEWHERE:
        raise UsageError(f"kmend has no {name}", hint=ELSEWHERE[name])
    rest = [word for word in rest if word not in _DROPPED.get(name, ())]
    if name == "config" and rest and "=" in rest[0]:
        raise UsageError(
            "kmend config sets nothing", hint="write it into /etc/kmend/agent.toml.d/, then kmend config check"
        )
    if name in ("remove", "load", "unload") and rest and not rest[0].startswith("-"):
        hint = "levels are cumulative: kmend rollback --to N goes back, kmend unload takes all off, kmend update --level N loads"
        raise UsageError(f"{rest[0][:40]!r} cannot be taken by itself", hint=hint)
    if name == "upgrade" and rest and rest[0] == "-n":
        return ["check", *rest[1:]], f"kmend {name} -n is kmend check"
    if name == "status":
        return [name, *_livepatch_options(rest)], ""
    if name not in TAKEN:
        return [name, *rest], ""
    ours = [*TAKEN[name], *rest]
    return ours, f"kmend {name} is kmend {' '.join(TAKEN[name])}"


def _livepatch_options(rest: list[str]) -> list[str]:
    """`--format json` and `--verbose` of `canonical-livepatch status`."""
    joined = " ".join(rest).replace("--format=", "--format ").split()
    options: list[str] = []
    position = 0
    while position < len(joined):
        word = joined[position]
        if word == "--format" and position + 1 < len(joined):
            kind, position = joined[position + 1], position + 1
            if kind not in ("json", "humane"):
                raise UsageError(f"kmend status has no format {kind[:20]!r}", hint="json, or none")
            options += ["--json"] if kind == "json" else []
        elif word not in ("--verbose", "-v"):
            options.append(word)
        position += 1
    return options
