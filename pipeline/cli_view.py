"""The command that shows a table in a browser. Nothing heavy is imported up here."""

# ruff: noqa: ARG001 - `debug` is read by `one_line`

from typing import Annotated

import typer

from pipeline.cli_errors import one_line
from pipeline.cli_options import Debug, Endpoint, RegistryOption
from pipeline.cli_table import TableUri


@one_line
def view(
    table: TableUri,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="[the first free one from 8750]")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="address of this machine, loopback only")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--open/--no-open", help="show it in a browser")] = True,
    endpoint_url: Endpoint = None,
    registry: RegistryOption = None,
    debug: Debug = False,
) -> None:
    """Show a table in a browser: filter, sort, look at images, masks and attention. Ctrl-C ends it.

    It only reads, and answers this machine alone; for a table on another one, forward the port by ssh -L.

    **Examples**

        masklake view ./masks
        masklake view s3://my-masks/scans --port 9000 --no-open
    """
    import webbrowser

    from pipeline.config import StorageConfig
    from pipeline.errors import ConfigError
    from pipeline.table import Table

    try:
        from pipeline.gallery.server import address_of, listen, serve
    except ImportError as error:
        raise ConfigError(f"masklake view needs {error.name}: pip install 'masklake[view]'") from error
    from pipeline.gallery.state import Gallery

    storage = StorageConfig(endpoint_url=endpoint_url)
    opened = Table.open(table, storage)
    listening = listen(host, port)
    gallery = Gallery(opened, storage, registry)
    typer.echo(f"gallery: {address_of(listening)} (Ctrl-C ends it)")
    if browser and not webbrowser.open(address_of(listening)):
        typer.echo("no browser here: open the address above", err=True)
    serve(gallery, listening)
