"""How every command ends: what is raised on purpose becomes one line and an exit code."""

import errno
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import wraps
from typing import ParamSpec

import typer

from pipeline.errors import InterruptedRun, MasklakeError
from pipeline.events import JsonLines
from pipeline.harmless import shown

P = ParamSpec("P")


def one_line(function: Callable[P, int | None]) -> Callable[P, None]:
    """Return the command with its errors as one line each.

    Its option `debug` lets them through; with its option `as_json` they are events, too.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs) or 0
        except MasklakeError as error:
            if kwargs.get("debug"):
                raise
            stopped = isinstance(error, InterruptedRun)
            _tell(error, error.transient, kwargs)
            text = f"{'' if stopped else 'error: '}{shown(str(error))}"  # it can quote a file
            typer.secho(text, err=True, fg=None if stopped else "red")
            code = error.exit_code if isinstance(error, InterruptedRun) else 1
        except KeyboardInterrupt:
            typer.echo("stopped; the same command goes on", err=True)
            code = 128 + signal.SIGINT
        except BrokenPipeError:  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except OSError as error:  # a full disk, a folder that is not there
            if kwargs.get("debug"):
                raise
            _tell(error, False, kwargs)
            typer.secho(f"error: {shown(_local(error))}", err=True, fg="red")
            code = 1
        raise typer.Exit(code)

    return run


def _local(error: OSError) -> str:
    """Return the line for an error of this machine's files; what names none is of the temporary ones."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return str(error)
    place = error.filename or f"{tempfile.gettempdir()}, where temporary files are"
    return f"no space left for {place}: free some, or set TMPDIR to a folder elsewhere, and run it again"


def _tell(error: Exception, transient: bool, options: Mapping[str, object]) -> None:
    if options.get("as_json"):
        JsonLines().tell("error", type=type(error).__name__, text=str(error), transient=transient)
