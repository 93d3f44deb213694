"""`python -m packager build|offer`: make the packages; lay them beside a repository for hosts to install them from."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import agent_tree
from packager.building import FORMATS, build
from packager.errors import PackagingError
from packager.offer import make_script, offer, sha256_of


def main() -> None:
    """Do one of the two, or say why not."""
    options = _parser().parse_args()
    try:
        if options.act == "build":
            packages = build(options.output, tuple(options.format or FORMATS), options.version)
            for path in (*packages, make_script(options.output, packages)):
                sys.stdout.write(f"{sha256_of(path)}  {path.name}\n")
        else:
            sys.stdout.write(offer(options.repository, options.url, options.root, options.packages) + "\n")
    except (PackagingError, agent_tree.TreeError) as problem:
        sys.exit(f"packager: {problem}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="packager", description="Make and offer the agent's packages.")
    acts = parser.add_subparsers(dest="act", required=True, metavar="ACT")
    building = acts.add_parser("build", help="make the packages and a script that installs them, print their digests")
    building.add_argument("-o", "--output", type=Path, required=True, help="folder for the packages")
    building.add_argument("--format", choices=sorted(FORMATS), action="append", help="only this one (default: all)")
    building.add_argument("--version", help="another version than the checkout's, to try an upgrade with")
    offering = acts.add_parser("offer", help="lay packages and an installing script beside a repository")
    offering.add_argument(
        "--repository", type=Path, required=True, help="the repository's folder; install/ is made in it"
    )
    offering.add_argument("--url", required=True, help="where hosts find that folder")
    offering.add_argument("--root", type=Path, required=True, help="the publisher's root.json")
    offering.add_argument("packages", type=Path, nargs="+", help="a deb, an rpm, or both")
    return parser


if __name__ == "__main__":
    main()
