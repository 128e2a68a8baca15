"""The exception tree: what its drawing says is what the classes are."""

import inspect
import signal

import pytest

from pipeline import errors
from pipeline.errors import ConcurrentRunError, ImageError, InterruptedRun, MasklakeError, TableError

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_every_error_is_drawn_and_explained(error: type[Exception]) -> None:
    """The drawing at the top of the file lists every class, and each says when it is raised."""
    assert errors.__doc__ is not None
    assert error.__name__ in errors.__doc__
    assert error.__doc__
    assert issubclass(error, MasklakeError)


def test_each_image_error_names_its_own_stage() -> None:
    """The stage of a failed row tells the error that made it; the plan's rules go by the stage."""
    stages = [error.stage for error in ImageError.__subclasses__()]
    assert sorted(stages) == ["decode", "fetch", "label", "limit", "predict"]


def test_a_table_error_catches_a_concurrent_run() -> None:
    """Who handles trouble with the table handles a second writer, too."""
    assert issubclass(ConcurrentRunError, TableError)


def test_interruption_has_the_exit_code_of_its_signal() -> None:
    """130 for Ctrl-C and 143 for SIGTERM, as shells have it."""
    assert InterruptedRun(signal.SIGINT, "").exit_code == 130
    assert InterruptedRun(signal.SIGTERM, "stopped").exit_code == 143
    assert str(InterruptedRun(signal.SIGTERM, "stopped")) == "stopped"
