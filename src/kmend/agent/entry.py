"""Where the program begins. The service takes no more of it into memory than it needs: the rest is 1.2 MB."""

from __future__ import annotations

import logging
import sys


def main() -> int:
    """Run the command line of this process; returns the exit status."""
    if sys.argv[1:] == ["agent", "run"]:
        from kmend.agent import service
        from kmend.agent.session import Host
        from kmend.core.errors import KmendError

        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="kmend: %(message)s")
        try:
            return service.run(Host(), "run")
        except KmendError as problem:
            logging.getLogger(__name__).error("error: %s", problem.diagnosis())
            return problem.exit_status
    from kmend.agent.main import main as command

    return command()
