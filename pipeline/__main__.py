"""`python -m pipeline`: the command line, also where its script is not on the path, as in a cluster's job."""

import sys

from pipeline.events import JsonLines


def fail(text: str) -> None:
    """End with one line, which programs get as an event."""
    if "--json" in sys.argv:
        JsonLines().tell("error", type="ConfigError", text=text, transient=False)
    sys.exit(f"error: {text}")


if sys.version_info < (3, 11):  # noqa: UP036 - a cluster may have any
    fail(f"masklake wants Python 3.11 or later; {sys.executable} is {sys.version.split()[0]}")

try:
    from pipeline.cli import main

    main()
except ModuleNotFoundError as missing:
    fail(
        f"{sys.executable} has no {missing.name}: install masklake there, or use its image, so that `python` "
        "on the PATH of each node is the one that has it"
    )
