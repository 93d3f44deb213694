"""The manual page and the shells' completion, made from the command line's own definition so that they cannot disagree."""

from __future__ import annotations

import argparse
import datetime
import re

import shtab
from argparse_manpage.manpage import Manpage

from kmend.agent.main import command_line
from packager.definition import Definition

FILES = """
.SH FILES
.TP
.I /etc/kmend/agent.toml, /etc/kmend/agent.toml.d/*.toml
configuration; /usr/share/doc/kmend/agent.md describes it
.TP
.I /etc/kmend/root.json
the publisher's trust root
.TP
.I /var/lib/kmend
what happened, what is held back, and the levels kept on this host
.TP
.I /run/kmend/state.json, /run/kmend/cvelist
the state, published for other programs; /usr/share/doc/kmend/monitoring.md describes it
"""


def page(definition: Definition) -> str:
    """kmend(8), in man's own language."""
    data = {
        "project_name": definition.name,
        "prog": definition.name,
        "description": definition.summary,
        "version": definition.version,
        "manual_section": 8,
        "manual_title": "System Administration",
    }
    text = str(Manpage(_for_people(), data, format="single-commands-section"))
    date = datetime.datetime.fromtimestamp(definition.epoch, datetime.timezone.utc).strftime("%Y\\-%m\\-%d")
    # The library takes the date from the environment alone.
    text = re.sub(r'^(\.TH \S+ "?\d"?) "[^"]*"', lambda match: f'{match[1]} "{date}"', text, count=1, flags=re.M)
    return text.replace(".SH COMMENTS", ".SH EXIT STATUS").rstrip("\n") + "\n" + FILES


def completion(shell: str) -> str:
    """What makes `shell` (bash or zsh) complete kmend's commands and options."""
    return str(shtab.complete(_for_people(), shell=shell))


def _for_people() -> argparse.ArgumentParser:
    """The command line without the commands that have no help text, which are kmend's own."""
    parser = command_line()
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helped = {choice.dest for choice in action._choices_actions}
            offered = [action.choices[name] for name in action.choices if name in helped]
            for name in [name for name, command in action.choices.items() if command not in offered]:
                del action.choices[name]
    return parser
