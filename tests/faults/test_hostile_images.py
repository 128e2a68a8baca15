"""Ten thousand hostile images, decoded one after another by one process: each ends as a row, none costs more
memory than its limit allows, and none ends the process."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import PurePath
from typing import Final

import pytest

from tests.conftest import REPOSITORY
from tests.faults.corpus.mutations import mutations
from tests.faults.corpus.seeds import seeds
from tests.faults.decoding import CHANNELS, DECODE, Outcome

PIXEL_BYTES: Final = 40  # that a pixel costs at most, with all copies: transparent ones are laid on white
FILE_TIMES: Final = 8  # as often may the file be held: as it came, its parts, and what is read of them
STRIP_TIMES: Final = 64  # a TIFF's file, for its lists of strips: Pillow makes an object of each 4 bytes
TEXT_BYTES: Final = 64 << 20  # that Pillow lets the texts of a PNG unpack to
SPARE_BYTES: Final = 8 << 20

# Large blocks go back to the system at once, so that what one image took does not hide what the next takes.
MEMORY: Final = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """What came of every image; a process that died before its last one fails all tests here."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.faults.decoding", str(tmp_path_factory.mktemp("hostile"))],
        cwd=REPOSITORY,
        env={**os.environ, **MEMORY},
        capture_output=True,
        text=True,
        errors="replace",  # codecs in C quote bytes of the file
        check=False,
    )
    told = [Outcome(**json.loads(line)) for line in ended.stdout.splitlines()]
    last = told[-1].name if told else "none"
    assert ended.returncode == 0, f"it died at the image after {last}: {ended.stderr[-2000:]}"
    return told


def allowed(outcome: Outcome) -> int:
    """Return by how many bytes the process may grow at most while it decodes this image."""
    suffix = PurePath(outcome.name).suffix
    times = STRIP_TIMES if suffix == ".tif" else FILE_TIMES
    texts = TEXT_BYTES if suffix == ".png" else 0
    return PIXEL_BYTES * DECODE.max_pixels + times * outcome.size + texts + SPARE_BYTES


def test_there_are_ten_thousand_and_the_same_each_time() -> None:
    """A failure can be looked at again: the corpus does not depend on time or chance."""
    first, second = (list(mutations(seeds())) for _ in range(2))
    assert first == second
    assert len(first) > 10_000


def test_every_image_ends_as_a_row(outcomes: list[Outcome]) -> None:
    """It has pixels, all of them and no more than the limit, or an error of decoding in one line."""
    assert len(outcomes) > 10_000
    for outcome in outcomes:
        assert outcome.stage in (None, "decode", "limit"), outcome
        assert (outcome.stage is None) == (outcome.pixels > 0), outcome
        assert outcome.bytes == CHANNELS * outcome.pixels, outcome
        assert outcome.pixels <= DECODE.max_pixels, outcome
        assert outcome.message is None or outcome.message.isprintable(), outcome


def test_a_cut_image_is_whole_or_an_error(outcomes: list[Outcome]) -> None:
    """Wherever a file is cut, what is read is what the whole file gives: never a half-filled image."""
    kept = [outcome for outcome in outcomes if outcome.kind == "cut" and outcome.stage is None]
    assert all(outcome.same for outcome in kept), [outcome for outcome in kept if not outcome.same]
    assert len(kept) < 100  # frames and pages behind the first, which are not read


def test_a_wrong_extension_changes_nothing(outcomes: list[Outcome]) -> None:
    """What an image is, its first bytes say."""
    renamed = [outcome for outcome in outcomes if outcome.kind == "renamed"]
    assert len(renamed) == len(seeds())
    assert all(outcome.same for outcome in renamed)


def test_no_image_costs_more_memory_than_its_limit_allows(outcomes: list[Outcome]) -> None:
    """Whatever a file declares or unpacks to, the process grows by the pixel limit and the file's size."""
    greedy = [outcome for outcome in outcomes if outcome.rise * 1024 > allowed(outcome)]
    assert not greedy, greedy


def test_the_corpus_reaches_every_end(outcomes: list[Outcome]) -> None:
    """Each kind of damage leaves some images whole and breaks others; bombs meet the pixel limit.

    Whether they meet the time limit depends on the machine: `decode` has a test of its own for that.
    """
    ends = Counter((outcome.kind, outcome.stage is None) for outcome in outcomes)
    for kind in ("flip", "overwrite", "zero", "remove", "repeat", "splice", "other head", "bomb"):
        assert ends[kind, True], kind
        assert ends[kind, False], kind
    messages = " ".join(outcome.message or "" for outcome in outcomes if outcome.kind == "bomb")
    assert "--max-pixels" in messages
