"""`kmend-factory keys`: make the keys of a repository, renew its trust root, sign published modules with another key."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

import click

from kmend.core import durable
from kmend.factory.commands.output import json_option, print_json, say, step
from kmend.trust import online
from kmend.trust.layout import DEFAULT_BIN_BITS
from kmend.trust.signing import keyfiles, roots
from kmend.trust.signing.keyfiles import KeyFolder, KeyPlan
from kmend.trust.signing.publishing import Publisher
from kmend.trust.signingerrors import KeyFileError

PASSPHRASE_VARIABLE = "KMEND_KEYS_PASSPHRASE"  # noqa: S105 - the name of a variable, not its value


def passphrase_for(path: Path) -> bytes:
    """The passphrase of an encrypted key file: from the environment, or asked for at a terminal.

    Raises:
        KeyFileError: neither is there.
    """
    given = os.environ.get(PASSPHRASE_VARIABLE, "")
    if given:
        return given.encode()
    if not sys.stdin.isatty():
        raise KeyFileError(f"{path} is encrypted", hint=f"set {PASSPHRASE_VARIABLE}, or run this at a terminal")
    return str(click.prompt(f"Passphrase for {path.name}", hide_input=True, err=True)).encode()


def now() -> datetime.datetime:
    """The time to sign with, in UTC and whole seconds."""
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


@click.group()
def command() -> None:
    """Make and use the keys that sign a repository and its modules."""


@command.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--root-keys", default=1, show_default=True, help="How many root keys to make.")
@click.option("--root-threshold", default=1, show_default=True, help="How many root keys must sign.")
@click.option("--targets-keys", default=1, show_default=True, help="How many targets keys to make.")
@click.option("--targets-threshold", default=1, show_default=True, help="How many targets keys must sign.")
@click.option(
    "--bin-bits",
    default=DEFAULT_BIN_BITS,
    show_default=True,
    help="Kernel builds are spread over 2 to that power bins.",
)
@click.option("--name", default="kmend module signing key", show_default=True, help="Name in the module certificate.")
@click.option("--encrypt", is_flag=True, help=f"Encrypt the offline keys ({PASSPHRASE_VARIABLE}, or asked for).")
@json_option
def init(
    folder: Path,
    root_keys: int,
    root_threshold: int,
    targets_keys: int,
    targets_threshold: int,
    bin_bits: int,
    name: str,
    encrypt: bool,
    as_json: bool,
) -> None:
    """Make all keys of a new repository in FOLDER.

    Move FOLDER/offline to where no machine can reach it; only FOLDER/online is needed to refresh the repository.
    """
    plan = KeyPlan(root_keys, root_threshold, targets_keys, targets_threshold, bin_bits, name)
    passphrase = _new_passphrase() if encrypt else b""
    with step("make keys"):
        keyfiles.create(folder, plan, now=now(), passphrase=passphrase)
    result = {
        "root": str(folder / "root.json"),
        "module_certificate": str(folder / "module" / "module.x509"),
        "offline": sorted(str(path) for path in (folder / "offline").iterdir()),
        "online": sorted(str(path) for path in (folder / "online").iterdir()),
        "encrypted": encrypt,
    }
    if as_json:
        print_json(result)
        return
    click.echo(f"trust root, for the hosts:            {result['root']}")
    click.echo(f"module certificate, to be enrolled:   {result['module_certificate']}")
    click.echo(f"offline keys, to be put away:         {folder / 'offline'}")
    click.echo(f"online keys, to refresh:              {folder / 'online'}")


@command.command()
@click.option("--keys", "folder", required=True, type=click.Path(path_type=Path), help="The folder of keys.")
@click.option("--repository", required=True, type=click.Path(path_type=Path), help="The repository's folder.")
@json_option
def renew(folder: Path, repository: Path, as_json: bool) -> None:
    """Sign the trust root again, for another year; needs the root keys."""
    version = Publisher(repository, KeyFolder(folder, passphrase_for), now=now()).renew()
    if as_json:
        print_json({"root_version": version})
    else:
        click.echo(f"trust root version {version} is published; hosts follow it by themselves")


@command.command()
@click.argument("request", type=click.Path(path_type=Path))
@click.option("--keys", "folder", required=True, type=click.Path(path_type=Path), help="The folder of keys.")
@click.option("--repository", type=click.Path(path_type=Path), help="The repository's folder, if it is at hand.")
@click.option("--only", is_flag=True, help="Let no other online keys sign any more.")
@json_option
def admit(request: Path, folder: Path, repository: Path | None, only: bool, as_json: bool) -> None:
    """Name a server's online keys in the trust root; needs the root keys.

    REQUEST is the file that `kmend-server init` left. Name the repository, or a copy of it, once there is one: the new root
    follows the newest that is known. Carry the new root.json, which is printed, to the server:
    kmend-server repository adopt FILE. Online keys sign snapshot and timestamp; they can neither add a level nor change one.
    """
    wanted = online.read_request(durable.read_bounded(request, max_bytes=online.MAX_REQUEST_BYTES))
    keys = KeyFolder(folder, passphrase_for)
    version, path = roots.admit(keys, wanted, repository=repository, only=only, now=now())
    if as_json:
        print_json({"root_version": version, "root": str(path), "machine": wanted.machine})
        return
    click.echo(f"trust root version {version} names the online keys of {wanted.machine or 'that machine'}")
    click.echo(f"carry this to it:  {path}")


@command.command("sign-modules")
@click.option("--keys", "folder", required=True, type=click.Path(path_type=Path), help="Folder with root.json.")
@click.option("--repository", required=True, type=click.Path(path_type=Path), help="The repository, or a mirror of it.")
@click.option("--key", required=True, type=click.Path(path_type=Path), help="RSA private key, PEM.")
@click.option("--certificate", required=True, type=click.Path(path_type=Path), help="Its certificate, DER or PEM.")
@click.option("--signer", required=True, help="Name of this set of signatures; hosts name it in agent.toml.")
@json_option
def sign_modules(folder: Path, repository: Path, key: Path, certificate: Path, signer: str, as_json: bool) -> None:
    """Sign all published modules with a key of your own, without touching the publisher's metadata."""
    module_key = keyfiles.load_module_key(key, certificate, passphrase_for)
    count = Publisher(repository, KeyFolder(folder, passphrase_for), now=now()).sign_modules(module_key, signer)
    if as_json:
        print_json({"signed": count, "signer": signer})
    else:
        click.echo(f"{count} modules signed as {signer}")


def _new_passphrase() -> bytes:
    given = os.environ.get(PASSPHRASE_VARIABLE, "")
    if not given and sys.stdin.isatty():
        given = str(click.prompt("New passphrase", hide_input=True, confirmation_prompt=True, err=True))
    if not given:
        raise KeyFileError("there is no passphrase to encrypt with", hint=f"set {PASSPHRASE_VARIABLE}")
    if len(given) < 12:
        say("warning: a passphrase of less than 12 characters protects little")
    return given.encode()
