"""`kmend-server run`: serve."""

from __future__ import annotations

import socket
from pathlib import Path

import click

from kmend.core.errors import MalformedError
from kmend.core.notifying import Notifier
from kmend.server.commands.parameters import config_option
from kmend.server.config import read_address, read_config
from kmend.server.operations import logs, supervising
from kmend.server.operations.listening import listen, raise_file_limit, shown


@click.command()
@config_option
@click.option("--port", type=click.IntRange(0, 65_535), help="Instead of the configured port; 0: any that is free.")
@click.option(
    "--processes", type=click.IntRange(1, 64), help="How many processes share the port (default: as configured)."
)
@click.option("--share-port", is_flag=True, help="Let other processes that were started so listen on the same port.")
@click.option("--also", multiple=True, help="A further address to listen on, this process's own: for its metrics.")
@click.option("--stop-after", type=click.FloatRange(min=0), help="End by itself after so many seconds.")
@click.option("--socket", "descriptors", multiple=True, type=click.IntRange(min=3), hidden=True)
def command(
    config_path: Path,
    port: int | None,
    processes: int | None,
    share_port: bool,
    also: tuple[str, ...],
    stop_after: float | None,
    descriptors: tuple[int, ...],
) -> None:
    """Serve: the API, hosts' check-ins, and everything that is done by time. SIGTERM ends it in an orderly way.

    The addresses that it listens on are printed on standard output when it does. Several processes may run beside each other, on
    one machine or many, with the same database.
    """
    for address in also:
        try:
            read_address(address)
        except MalformedError as problem:
            raise click.UsageError(problem.message) from None
    config = read_config(config_path)
    logs.set_up(config.log)
    raise_file_limit()
    count = 1 if descriptors else processes or config.server.processes
    if count > 1:
        supervising.run(config_path, config, count, port=port, stop_after=stop_after)
        return
    # Imported late: whoever supervises needs none of it.
    from kmend.server.operations import serving

    process = serving.build(config)
    try:
        if descriptors:
            sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
        else:
            sockets = listen(config.server.listen, port=port, shared=share_port) + listen(also)
            for sock in sockets:
                click.echo(f"listening on {shown(sock)}")
    except BaseException:
        process.close()
        raise
    serving.serve(process, sockets, notifier=Notifier(), stop_after=stop_after)
