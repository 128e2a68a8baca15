"""What Prefect's page shows: how far a run is, what came of it, what failed, what drifted, and its masks.

A page that cannot be written never ends a run: the work goes on, and a line in the log says so.
"""

import base64
import html
import re
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, ParamSpec, cast
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.events import emit_event

from pipeline import storage
from pipeline.config import StorageConfig
from pipeline.drift import Drift
from pipeline.harmless import shown, without_secrets
from pipeline.pick import Picked
from pipeline.progress import duration

P = ParamSpec("P")
MOST_FAILURES: Final = 100  # that are listed by name
SLOW_SECONDS: Final = 20.0  # of a call that failed: nobody answers
QUIET_SECONDS: Final = 120.0  # without another one
LONGEST_KEY: Final = 80  # of the table's name in an artifact's key
_MARKUP: Final = re.compile(r"[\\`*_~|\[\]()!]|:(?=//)|(?<=www)\.|@")  # of Markdown, within a line

_quiet_until = [0.0]  # time.monotonic()


def never_in_the_way(function: Callable[P, None]) -> Callable[P, None]:
    """Return the function, for which a server that does not answer is only worth a line.

    Where nobody answers, Prefect asks for more than a minute: then nothing is tried for the next two.
    """

    @wraps(function)
    def try_it(*args: P.args, **kwargs: P.kwargs) -> None:
        started = time.monotonic()
        if started < _quiet_until[0]:
            return
        try:
            function(*args, **kwargs)
        except Exception as error:
            if time.monotonic() - started >= SLOW_SECONDS:
                _quiet_until[0] = time.monotonic() + QUIET_SECONDS
            get_run_logger().warning("the page was not updated: %s: %s", type(error).__name__, error)

    return try_it


class Progress:
    """A bar on the page that follows the events of a command."""

    def __init__(self, what: str, uri: str) -> None:
        self._key = key(what, uri)
        self._id: UUID | None = None

    @never_in_the_way
    def hear(self, event: Mapping[str, Any]) -> None:
        """Move the bar; what is said goes to the log."""
        match event["event"]:
            case "note":
                get_run_logger().info("%s", shown(event["text"]))
            case "started":
                self._move(0.0, f"{event['images']:,} images to do")
            case "committed":
                done = f"{event['images']:,} of {event['of']:,} images, {event['failed']:,} failed"
                if (rate := event["images_per_second"]) is not None:  # told from the second commit on
                    done += f", {rate:.1f} images/s"
                self._move(event["images"] / max(1, event["of"]), done)
            case "step":
                done = f"step {event['step']:,} of {event['of']:,}, {event['steps_per_second']:.2f} steps/s"
                self._move(event["step"] / max(1, event["of"]), done)

    def _move(self, share: float, text: str) -> None:
        if self._id is None:
            self._id = cast("UUID", create_progress_artifact(100 * share, key=self._key, description=text))
        else:
            update_progress_artifact(self._id, 100 * share, description=text)


@never_in_the_way
def show_summary(summary: Mapping[str, Any]) -> None:
    """Put the numbers of a run of `masklake segment` on the page."""
    rows: list[dict[str, Any]] = [
        {"what": "images", "value": f"{summary['images']:,}"},
        {"what": "already done", "value": f"{summary['already_done']:,}"},
        {"what": "other objects", "value": f"{summary['skipped_objects']:,}"},
        {"what": "failed", "value": f"{sum(summary['failures'].values()):,}"},
        *({"what": f"failed: {why}", "value": f"{count:,}"} for why, count in summary["failures"].items()),
        {"what": "time", "value": duration(summary["seconds"])},
        {"what": "images/s", "value": f"{summary['images_per_second']:.1f}"},
        {"what": "bottleneck", "value": summary["bottleneck"] or ""},
        {"what": "table", "value": summary["table"]},
        *([{"what": "page", "value": summary["page"]}] if summary.get("page") else []),
    ]
    show_table("summary", summary["table"], rows, f"Run {summary['run_id']}")


@never_in_the_way
def show_failures(table: str, failures: Sequence[Mapping[str, Any]]) -> None:
    """List the images that failed."""
    rows = [{name: row[name] for name in ("uri", "stage", "type", "message")} for row in failures]
    some = f"the first {MOST_FAILURES} of " if len(rows) > MOST_FAILURES else ""
    show_table("failures", table, rows[:MOST_FAILURES], f"Failed: {some}{len(rows):,} images")


@never_in_the_way
def show_drift(drift: Drift, picked: Sequence[Picked]) -> None:
    """Say whether the run is unlike those before it, and which of its images to label next."""
    told = shown(str(drift), lines=True).replace("`", "'")  # names of classes must not end the block
    lines = [f"```\n{told}\n```"]
    if picked:
        lines += ["", "To label next:", "", "| image | score | why |", "|---|---|---|"]
        lines += [f"| {plain(one.uri)} | {one.score:.1f} | {plain(one.why)} |" for one in picked]
    title = "Drift: the run is unlike those before it" if drift.drifted else "Drift: none"
    create_markdown_artifact("\n".join(lines), key=key("drift", drift.table), description=title)


@never_in_the_way
def show_picture(what: str, uri: str, picture: bytes, description: str) -> None:
    """Show a PNG or JPEG; the page holds it, since a browser has no right to read the bucket."""
    kind = "jpeg" if picture.startswith(b"\xff\xd8") else "png"
    data = base64.b64encode(picture).decode()
    create_image_artifact(f"data:image/{kind};base64,{data}", key=key(what, uri), description=description)


@never_in_the_way
def show_curves(name: str, checkpoint: str, config: StorageConfig) -> None:
    """Show how loss and Dice went in the training of a model's newest checkpoint."""
    picture = storage.read(f"{checkpoint}/pictures/curves.png", config)
    show_picture("curves", name, picture, f"Training: {checkpoint}")


@never_in_the_way
def show_table(what: str, uri: str, rows: Sequence[Mapping[str, Any]], description: str) -> None:
    """Put rows on the page; whatever they hold is shown as text."""
    told = [{name: plain(value) for name, value in row.items()} for row in rows]
    create_table_artifact(told, key=key(what, uri), description=description)


@never_in_the_way
def tell(event: str, uri: str, payload: Mapping[str, Any]) -> None:
    """Emit an event about a table or a model, for Prefect's automations."""
    name = without_secrets(uri)
    resource = {"prefect.resource.id": f"masklake.{key('at', uri)}", "prefect.resource.name": name}
    emit_event(event, resource=resource, payload=dict(payload))


def plain(value: object) -> str:
    """Return text that no page takes for HTML or Markdown: names of objects are other people's.

    Nothing of it becomes a link or a picture that a browser would fetch.
    """
    escaped = _MARKUP.sub(r"\\\g<0>", shown(str(value)))
    return html.escape(escaped, quote=False)


def key(what: str, uri: str) -> str:
    """Return the name under which Prefect keeps the versions of one artifact of one table or model."""
    name = re.sub(r"[^a-z0-9]+", "-", uri.lower()).strip("-")
    return f"masklake-{what}-{name[-LONGEST_KEY:].strip('-')}"
