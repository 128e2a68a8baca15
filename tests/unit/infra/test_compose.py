"""compose.yaml: valid by the specification's own schema, and every container as locked up as it says."""

import importlib.resources
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.config import JobConfig
from tests.unit.infra.files import INFRA, KUBERNETES, PINNED, README, ROOT, read_yaml, version

COMPOSE: dict[str, Any] = read_yaml(INFRA / "compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("prefect-server", "prefect-worker", "ray-head", "ray-worker", "ray-gpu-worker")
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|AUTH_STRING|ACCESS_KEY|CONNECTION_URL")
NOT_SECRET = {"RAY_AUTH_MODE"}


def default(value: str) -> str:
    """Return a value with each ${NAME:-default} replaced by its default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def command(service: dict[str, Any]) -> list[str]:
    return [str(part) for part in service.get("command", [])]


def validate(tree: dict[str, Any]) -> None:
    """Check a compose file by the specification's schema. Raises ValidationError, of unknown keys too."""
    folder = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(tree)


def test_compose_file_is_valid() -> None:
    """The specification's own schema accepts it."""
    validate(COMPOSE)


@pytest.mark.parametrize("key", ["read-only", "cap_dorp", "heathcheck"])
def test_compose_file_with_an_unknown_key_is_refused(key: str) -> None:
    """The check above finds a misspelt key: Docker Compose would refuse it, too."""
    tree = yaml.safe_load((INFRA / "compose.yaml").read_text(encoding="utf-8"))
    tree["services"]["postgres"][key] = True
    with pytest.raises(jsonschema.ValidationError):
        validate(tree)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_container_is_locked_up(name: str) -> None:
    """Not root, read-only, no capabilities, no new privileges, and limits on cores, memory and processes."""
    service = SERVICES[name]
    user, _, _ = service["user"].partition(":")
    assert int(user) > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    limits = service["deploy"]["resources"]["limits"]
    assert set(limits) == {"cpus", "memory", "pids"}
    assert not [mount for mount in service.get("volumes", []) if "docker.sock" in mount]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_container_is_watched_and_started_again(name: str) -> None:
    """A health check, a restart, and logs that end somewhere."""
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"]["max-size"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_image_names_its_version(name: str) -> None:
    """No `latest`; ours is the project's version by default; no registry's host name."""
    image = default(SERVICES[name]["image"])
    assert PINNED.match(image)
    assert "." not in image.split("/")[0].split(":")[0]
    if name in OURS:
        kind = "cuda" if "gpu" in name else "cpu"
        assert image == f"masklake:{version()}-{kind}"


def test_what_waits_waits_for_a_health_check() -> None:
    """`depends_on` always waits until the other is healthy, and the other exists."""
    for service in SERVICES.values():
        for other, condition in service.get("depends_on", {}).items():
            assert condition["condition"] == "service_healthy"
            assert "healthcheck" in SERVICES[other]
            assert condition.get("required", True) is not bool(SERVICES[other].get("profiles"))


def test_pages_are_published_on_loopback_only() -> None:
    """What the host offers, it offers to itself."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)


def test_database_is_reached_by_prefect_alone() -> None:
    """PostgreSQL is on a network without a way out, with Prefect's server."""
    assert COMPOSE["networks"]["database"]["internal"] is True
    on_it = {name for name, service in SERVICES.items() if "database" in service["networks"]}
    assert on_it == {"postgres", "prefect-server"}
    assert SERVICES["postgres"]["networks"] == ["database"]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_secret_is_in_the_file(name: str) -> None:
    """A variable that sounds like a secret holds the path of one, and that secret is mounted."""
    service = SERVICES[name]
    for variable, value in service.get("environment", {}).items():
        if SECRET_NAME.search(variable) and variable not in NOT_SECRET:
            assert variable.endswith(("_FILE", "_PATH")), variable
            assert value.removeprefix("/run/secrets/") in service["secrets"], variable


def test_secrets_are_files_that_git_does_not_know() -> None:
    """Each is a file below secrets/, and .gitignore keeps them, .env and pip.conf out."""
    files = [secret["file"] for secret in COMPOSE["secrets"].values()]
    assert all(re.fullmatch(r"\./secrets/\w+", file) for file in files)
    for path in (*files, ".env", "pip.conf"):
        ignored = subprocess.run(["git", "check-ignore", "--quiet", str(INFRA / path)], cwd=ROOT, check=False)
        assert ignored.returncode == 0, path


def test_every_secret_is_used_and_every_used_one_is_there() -> None:
    """The list of secrets is exactly what the containers mount."""
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])


def test_readme_makes_every_secret() -> None:
    """The commands of README.md make each file that the containers mount."""
    text = README.read_text(encoding="utf-8")
    (loop,) = re.findall(r"for name in ([\w ]+); do", text)
    made = set(loop.split()) | set(re.findall(r"> secrets/(\w+)", text))
    assert made == set(COMPOSE["secrets"])


def test_ray_asks_for_the_token_on_every_node_and_client() -> None:
    """Nodes and the worker in which flows run have token authentication on, and the token's file."""
    speakers = [name for name in SERVICES if name.startswith("ray-") or name == "prefect-worker"]
    assert len(speakers) == 4
    for name in speakers:
        environment = SERVICES[name]["environment"]
        assert environment["RAY_AUTH_MODE"] == "token"
        assert environment["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert "ray_token" in SERVICES[name]["secrets"]


def test_ray_nodes_reach_the_objects_themselves() -> None:
    """Keys are on every node and on the worker of flows: they are never part of a job."""
    for name in ("ray-head", "ray-worker", "ray-gpu-worker", "prefect-worker"):
        environment = SERVICES[name]["environment"]
        assert {"AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID__FILE", "AWS_SECRET_ACCESS_KEY__FILE"} <= set(
            environment
        )


def test_ray_spills_to_disk() -> None:
    """/tmp of a Ray node is a volume: what Ray spills to a tmpfs would fill the memory it spills from."""
    for name in ("ray-head", "ray-worker", "ray-gpu-worker"):
        assert SERVICES[name]["volumes"] == ["/tmp"]
        assert "tmpfs" not in SERVICES[name]


def test_prometheus_scrapes_the_ports_that_ray_exports() -> None:
    """Every Ray service is asked, at the port that its command names."""
    scraped = read_yaml(INFRA / "prometheus" / "prometheus.yml")["scrape_configs"]
    (names,) = [job["dns_sd_configs"][0] for job in scraped if job["job_name"] == "ray"]
    nodes = {name for name in SERVICES if name.startswith("ray-")}
    assert set(names["names"]) == nodes
    assert all(f"--metrics-export-port={names['port']}" in command(SERVICES[name]) for name in nodes)


def test_mounted_files_are_there() -> None:
    """What the file mounts from beside it exists."""
    mounts = [
        mount.split(":")[0]
        for service in SERVICES.values()
        for mount in service.get("volumes", [])
        if mount.startswith("./")
    ]
    mounts += [config["file"] for config in COMPOSE["configs"].values()]
    assert len(mounts) > 3
    assert all((INFRA / mount).exists() for mount in mounts)


@pytest.mark.parametrize("folder", [INFRA, KUBERNETES], ids=["compose", "kubernetes"])
def test_night_is_a_configuration_that_is_understood(folder: Path) -> None:
    """nightly.toml is a job's configuration with a cluster beside it, and names no secret."""
    file = folder / "nightly.toml"
    tree = tomllib.loads(file.read_text(encoding="utf-8"))
    cluster = tree.pop("cluster")
    JobConfig.model_validate(tree)
    assert re.fullmatch(r"http://[a-z-]+:8265", cluster["address"])
    assert not SECRET_NAME.search(file.read_text(encoding="utf-8").upper().replace("REGISTRY", ""))
