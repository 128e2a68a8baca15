"""Options that several commands have, each said once."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[
    Path | None, typer.Option("--config", help="TOML or JSON file; options on the command line win")
]
RegistryOption = Annotated[  # whoever opens it knows the variable: read here, it would win over a TOML file
    str | None,
    typer.Option("--registry", help="folder or URI where NAME@ALIAS is looked up [MASKLAKE_REGISTRY]"),
]
Endpoint = Annotated[str | None, typer.Option("--endpoint-url", help="S3-compatible endpoint")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
AsLines = Annotated[bool, typer.Option("--json", help="print one JSON object a line")]
AsEvents = Annotated[bool, typer.Option("--json", help="print what happens, and the summary, as JSON lines")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]
