"""The image: its Dockerfile is linted, sends only what it needs, and its entry point is tried."""

import os
import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.unit.infra.files import INFRA, ROOT, locked, tool

IMAGE = INFRA / "image"
DOCKERFILE = IMAGE / "Dockerfile"
ENTRY = IMAGE / "secrets-from-files"


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions with their arguments, lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(word, rest) for line in lines if line for word, _, rest in [line.partition(" ")]]


def test_dockerfile_is_linted() -> None:
    """hadolint finds nothing, hints included."""
    ended = subprocess.run(
        [tool("hadolint"), "--no-color", str(DOCKERFILE)], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "")


def test_build_is_sent_what_it_copies_and_nothing_else() -> None:
    """What COPY takes from the repository is there and let through, and nothing more is let through."""
    lines = (IMAGE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for source in [part for part in rest.split() if not part.startswith("--")][:-1]
    }
    assert "*" in lines
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)


def test_image_runs_as_a_user_that_kubernetes_knows_is_not_root() -> None:
    """runAsNonRoot asks for a number."""
    users = [rest for word, rest in instructions() if word == "USER"]
    assert users[-1] == "1000:1000"


def test_what_is_written_goes_below_tmp() -> None:
    """On a read-only root file system, every place that a library writes to is below /tmp."""
    environment = dict(
        pair.split("=", 1) for word, rest in instructions() if word == "ENV" for pair in rest.split()
    )
    places = ("HOME", "PREFECT_HOME", "PREFECT_UI_STATIC_DIRECTORY", "MPLCONFIGDIR")
    assert all(Path(environment[name]).is_relative_to("/tmp") for name in places)
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_base_image_is_of_the_locks_python() -> None:
    """The lock is for Python 3.11; flows and Ray nodes with another one could not exchange objects."""
    (default,) = [rest for word, rest in instructions() if word == "ARG" and rest.startswith("PYTHON=")]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (wanted,) = re.findall(r"--python-version (\S+)", makefile)
    assert fnmatch(default, f"PYTHON={wanted}-slim-*")
    assert locked("torch") == "2.13.0"


# ---------------------------------------------------------------- the entry point


def start(*command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    variables = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(
        ["sh", str(ENTRY), *command], env=variables, capture_output=True, text=True, check=False
    )


def test_secrets_in_files_become_variables(tmp_path: Path) -> None:
    """NAME__FILE becomes NAME; what other programs name ..._FILE stays as it is."""
    secret = tmp_path / "it's a secret"
    secret.write_text("a 'b' $c\n")
    ended = start("env", KEY__FILE=str(secret), SSL_CERT_FILE="/etc/ssl/x")
    assert ended.returncode == 0
    assert {"KEY=a 'b' $c", "SSL_CERT_FILE=/etc/ssl/x"} <= set(ended.stdout.splitlines())
    assert "KEY__FILE" not in ended.stdout


def test_command_keeps_its_arguments_and_exit_code() -> None:
    """The entry point replaces itself by the command."""
    ended = start("sh", "-c", 'printf "%s|" "$@"; exit 7', "sh", "a b", "")
    assert (ended.returncode, ended.stdout) == (7, "a b||")


def test_secret_that_is_not_there_is_one_line() -> None:
    """It says which variable, which file, and what to look at."""
    ended = start("true", KEY__FILE="/nowhere/key")
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    assert "KEY__FILE" in ended.stderr
    assert "/nowhere/key" in ended.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_secret_that_the_user_may_not_read_is_one_line(tmp_path: Path) -> None:
    """A file of mode 0400 that root made is the usual mistake."""
    secret = tmp_path / "key"
    secret.write_text("x")
    secret.chmod(0o400)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o111)
    text = ENTRY.read_text(encoding="utf-8")
    ended = subprocess.run(
        ["sh", "-c", text, "entry", "true"],
        env={"PATH": os.environ["PATH"], "KEY__FILE": str(secret)},
        user=65534,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "user 65534 cannot read" in ended.stderr
