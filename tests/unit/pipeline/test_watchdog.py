"""A process that does not come back is ended, one that does is left alone."""

import subprocess
import sys

HANG = """
import re, time
from pipeline.watchdog import ended_after
with ended_after(60):
    pass
print("begun", flush=True)
with ended_after(0.2):
    re.match(r"(a+)+$", "a" * 64 + "b")  # C code that never looks for a signal
"""


def test_c_code_that_hangs_ends_with_its_process() -> None:
    """Its log says where it stood."""
    ended = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == "begun\n"
    assert "Timeout (0:00:00.200000)!" in ended.stderr
