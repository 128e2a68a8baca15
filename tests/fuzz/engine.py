"""What runs a target: libFuzzer, by atheris, with the corpus and the findings of earlier times."""

import contextlib
import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import atheris

FOLDER: Final = Path("bench-results/fuzz")  # below it, by target: what was found interesting, what was wrong
INSTRUMENTED: Final = [
    "pipeline",
    "PIL",
    "tomllib",
    "json",
]  # Python: the codecs' C code is seen from outside


@contextlib.contextmanager
def instrumented() -> Iterator[None]:
    """Import what is tested in here, so that the fuzzer sees which of its branches an input takes."""
    with atheris.instrument_imports(include=INSTRUMENTED, enable_loader_override=False):
        yield


def check_line(error: Exception) -> None:
    """Raise AssertionError if the message is not one line."""
    if len(str(error).splitlines()) != 1:
        raise AssertionError(repr(error))


def fuzz(name: str, check: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Call `check` with ever other bytes; ends with the first exception. The arguments are libFuzzer's.

    An input that takes longer than 20 s, or 2 GB, is a finding too.
    """
    corpus, findings = FOLDER / name / "corpus", FOLDER / name / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        (corpus / hashlib.sha1(seed).hexdigest()).write_bytes(seed)  # as libFuzzer names its own
    options = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=8192", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={findings}/", *sys.argv[1:], str(corpus)], check)
    atheris.Fuzz()
