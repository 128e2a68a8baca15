"""The files of infra/, as the tests read them."""

import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[3]
INFRA = ROOT / "infra"
KUBERNETES = INFRA / "kubernetes"
README = INFRA / "README.md"
PINNED = re.compile(r"^[a-z0-9./-]+:v?\d[\w.-]*$")  # an image that names its version


def tool(name: str) -> str:
    """Return the path of a program that a package of the extra dev brings."""
    return str(Path(sys.executable).with_name(name))


def read_yaml(file: Path) -> Any:
    """Return a file's one document."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def version() -> str:
    """Return the project's version."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def locked(package: str) -> str:
    """Return the version of a package in the lock."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (found,) = re.findall(rf"(?m)^{re.escape(package)}==(\S+)$", text)
    return str(found)


@cache
def built(folder: Path) -> list[dict[str, Any]]:
    """Return the manifests that `kubectl apply -k` of a folder would send."""
    ended = subprocess.run(
        [tool("kubectl"), "kustomize", str(folder)], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return list(yaml.safe_load_all(ended.stdout))
