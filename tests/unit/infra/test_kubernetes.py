"""The manifests, as kustomize builds them: valid, strictly, and every pod as locked up as they say."""

import copy
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.unit.infra import kuberay
from tests.unit.infra.files import INFRA, KUBERNETES, PINNED, README, built, locked, version

Manifest = dict[str, Any]
FOLDERS = {"cluster": KUBERNETES, "night": KUBERNETES / "night"}
ALL: dict[str, Manifest] = {
    f"{manifest['kind']}/{manifest['metadata']['name']}": manifest
    for folder in FOLDERS.values()
    for manifest in built(folder)
}
RAY = {name: manifest for name, manifest in ALL.items() if manifest["apiVersion"].startswith("ray.io/")}
PLAIN = {name: manifest for name, manifest in ALL.items() if name not in RAY}
NEED_THE_API = {"RayCluster/masklake/0", "RayCluster/masklake/autoscaler", "Deployment/prometheus/0"}
NO_PROBE = {"RayJob/night/0", "RayCluster/masklake/autoscaler"}  # a job; the operator's own container


def pods() -> dict[str, Manifest]:
    """Return the specification of every pod, by the manifest that asks for it."""
    found: dict[str, Manifest] = {}
    for name, manifest in ALL.items():
        if name in RAY:
            for number, template in enumerate(kuberay.pod_templates(manifest)):
                container = template["spec"]["containers"][0]["name"]
                found[f"{name}/{'autoscaler' if container == 'autoscaler' else number}"] = template["spec"]
        elif manifest["kind"] in ("Deployment", "StatefulSet"):
            found[f"{name}/0"] = manifest["spec"]["template"]["spec"]
    return found


PODS = pods()


def containers(pod: Manifest) -> Iterator[Manifest]:
    yield from pod["containers"]
    yield from pod.get("initContainers", [])


# ---------------------------------------------------------------- schemas


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_manifest_is_valid(name: str) -> None:
    """Kubernetes' own schema accepts it, and knows every field."""
    kubernetes_validate.validate(PLAIN[name], kuberay.KUBERNETES_VERSION, strict=True)


@pytest.mark.parametrize("name", sorted(RAY))
def test_kuberay_manifest_is_valid(name: str) -> None:
    """Every field is one that KubeRay has, and every pod template is Kubernetes'."""
    kuberay.validate(RAY[name])


def broken(name: str, path: tuple[str | int, ...], value: Any) -> Manifest:
    """Return a manifest with one more field, or another value."""
    manifest: Manifest = copy.deepcopy(ALL[name])
    place: Any = manifest
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return manifest


@pytest.mark.parametrize(
    "path",
    [
        ("spec", "rayversion"),
        ("spec", "autoscalerOptions", "idleTimeout"),
        ("spec", "autoscalerOptions", "securityContext", "readOnlyRootFileSystem"),
        ("spec", "workerGroupSpecs", 0, "maxReplica"),
        ("spec", "headGroupSpec", "template", "spec", "containers", 0, "envfrom"),
        ("metadata", "lables"),
    ],
    ids=lambda path: ".".join(str(step) for step in path),
)
def test_unknown_field_of_kuberay_is_an_error(path: tuple[str | int, ...]) -> None:
    """The check finds a misspelt field at every depth, in pod templates too."""
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        kuberay.validate(broken("RayCluster/masklake", path, "x"))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "authOptions", "mode"), "disabled"),
        (("spec", "workerGroupSpecs", 0, "minReplicas"), "1"),
        (("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
    ],
)
def test_wrong_value_of_kuberay_is_an_error(path: tuple[str | int, ...], value: Any) -> None:
    """Types count: Ray's start parameters are texts, and authentication stays on."""
    with pytest.raises(jsonschema.ValidationError):
        kuberay.validate(broken("RayCluster/masklake", path, value))


def test_unknown_field_of_kubernetes_is_an_error() -> None:
    """The check of plain manifests is strict, too."""
    manifest = broken("Deployment/prefect-worker", ("spec", "template", "spec", "enableServiceLink"), False)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, kuberay.KUBERNETES_VERSION, strict=True)


# ---------------------------------------------------------------- KubeRay's own definitions, where they are

CRDS = os.environ.get("KUBERAY_CRDS")
needs_crds = pytest.mark.skipif(not CRDS, reason="KUBERAY_CRDS names no folder with KubeRay's definitions")


def definition(kind: str) -> Manifest:
    """Return the OpenAPI schema of ray.io/v1 in KubeRay's definition of a kind, unknown fields forbidden."""
    file = Path(CRDS or "") / f"ray.io_{kind.lower()}s.yaml"
    versions = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]["versions"]
    (schema,) = [one["schema"]["openAPIV3Schema"] for one in versions if one["name"] == "v1"]
    spec: Manifest = strict(schema["properties"]["spec"])
    return spec


def strict(schema: Any) -> Any:
    """Return an OpenAPI schema as a JSON Schema that forbids fields which it does not list."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    return closed


@needs_crds
@pytest.mark.parametrize("name", sorted(RAY))
def test_manifest_is_valid_by_the_definition(name: str) -> None:
    """KubeRay's own definition accepts it, and knows every field, down to the last of a pod template."""
    jsonschema.Draft202012Validator(definition(RAY[name]["kind"])).validate(RAY[name]["spec"])


@needs_crds
@pytest.mark.parametrize("kind", sorted(kuberay.SPECS))
def test_listed_fields_are_in_the_definition(kind: str) -> None:
    """Every field that our list allows is one of KubeRay's, of the same type."""

    def compare(ours: Manifest, theirs: Manifest, path: str) -> None:
        if "type" in ours:
            assert ours["type"] == theirs["type"], path
        for choice in ours.get("enum", []):
            assert choice in theirs.get("enum", [choice]), path
        for name, inner in ours.get("properties", {}).items():
            assert name in theirs["properties"], f"{path}.{name}"
            compare(inner, theirs["properties"][name], f"{path}.{name}")
        if "items" in ours:
            compare(ours["items"], theirs["items"], f"{path}[]")

    compare(kuberay.SPECS[kind], definition(kind), kind)


# ---------------------------------------------------------------- security


@pytest.mark.parametrize("name", sorted(PODS))
def test_pod_is_locked_up(name: str) -> None:
    """What the `restricted` standard of the namespace asks, and a read-only root file system."""
    pod = PODS[name]
    security = pod["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
    for container in containers(pod):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}


def test_namespace_enforces_it() -> None:
    """Kubernetes refuses a pod that would be less locked up."""
    labels = ALL["Namespace/masklake"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", sorted(PODS))
def test_only_who_asks_the_api_has_a_token_for_it(name: str) -> None:
    """The autoscaler and Prometheus talk to the API server; no other pod gets a service account's token."""
    assert PODS[name].get("automountServiceAccountToken", True) is (name in NEED_THE_API)


@pytest.mark.parametrize("name", sorted(PODS))
def test_pod_has_requests_and_limits(name: str) -> None:
    """Every container asks for cores and memory, and ends at a limit of both."""
    for container in containers(PODS[name]):
        resources = container["resources"]
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(resources[kind])


@pytest.mark.parametrize("name", sorted(set(PODS) - NO_PROBE))
def test_pod_is_probed(name: str) -> None:
    """Kubernetes knows when it has started, when it can be used, and when to start it again."""
    for container in PODS[name]["containers"]:
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container[probe].get("httpGet", {}).get("port", 0)
            assert isinstance(port, int) or port in ports


@pytest.mark.parametrize("name", sorted(PODS))
def test_image_names_its_version(name: str) -> None:
    """No `latest`; ours is the project's version, of the right kind."""
    for container in containers(PODS[name]):
        image = container["image"]
        assert PINNED.match(image)
        if image.startswith("masklake"):
            gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert image == f"masklake:{version()}-{'cuda' if gpu else 'cpu'}"


def test_no_secret_is_in_the_manifests() -> None:
    """Secrets are referred to, never given; and no variable that sounds like one has a value."""
    assert not [name for name in ALL if name.startswith("Secret/")]
    for pod in PODS.values():
        for container in containers(pod):
            for variable in container.get("env", []):
                if re.search(r"PASSWORD|SECRET|AUTH_STRING|ACCESS_KEY|CONNECTION_URL", variable["name"]):
                    assert "secretKeyRef" in variable["valueFrom"], variable["name"]


def test_secrets_that_are_asked_for_are_explained() -> None:
    """README.md has a command for each secret and each of its keys that a manifest names."""
    asked: dict[str, set[str]] = {"ray-token": {"auth_token"}}
    for pod in PODS.values():
        for container in containers(pod):
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    asked.setdefault(reference["name"], set()).add(reference["key"])
            for source in container.get("envFrom", []):
                asked.setdefault(source["secretRef"]["name"], set())
        for volume in pod.get("volumes", []):
            if "secret" in volume:
                keys = {item["key"] for item in volume["secret"].get("items", [])}
                asked.setdefault(volume["secret"]["secretName"], set()).update(keys)
    assert ALL["RayCluster/masklake"]["spec"]["authOptions"]["secretName"] in asked
    text = README.read_text(encoding="utf-8")
    made = dict(re.findall(r"kubectl[^\n]* create secret generic (\S+)((?:[^\n]*\\\n)*[^\n]*)", text))
    assert set(made) == set(asked)
    for name, keys in asked.items():
        assert keys <= set(re.findall(r"--from-(?:literal|file)=([\w-]+)", made[name])), name


def test_what_pods_mount_is_there() -> None:
    """Each ConfigMap and claim that a pod names is in the manifests; each mount has its volume."""
    for name, pod in PODS.items():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        claimed = {
            c["metadata"]["name"] for c in ALL[name.rsplit("/", 1)[0]]["spec"].get("volumeClaimTemplates", [])
        }
        for volume in volumes.values():
            if "configMap" in volume:
                assert f"ConfigMap/{volume['configMap']['name']}" in ALL
            if "persistentVolumeClaim" in volume:
                assert f"PersistentVolumeClaim/{volume['persistentVolumeClaim']['claimName']}" in ALL
        for container in containers(pod):
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes or mount["name"] in claimed, (name, mount)


# ---------------------------------------------------------------- the network

RAY_LABELS = {"ray.io/cluster": "masklake"}  # as KubeRay labels its pods
OUTSIDE = {"kuberay-operator", "grafana"}  # pods of other namespaces, by app.kubernetes.io/name


def policies() -> dict[str, Manifest]:
    return {
        name.removeprefix("NetworkPolicy/"): manifest["spec"]
        for name, manifest in ALL.items()
        if name.startswith("NetworkPolicy/")
    }


def listening() -> dict[str, set[int]]:
    """Return the ports of our pods, by their name; Ray's under `ray`."""
    ports: dict[str, set[int]] = {"ray": {6379, 8080, 8265}}
    for manifest in ALL.values():
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            template = manifest["spec"]["template"]
            name = template["metadata"]["labels"]["app.kubernetes.io/name"]
            ports[name] = {
                port["containerPort"] for c in template["spec"]["containers"] for port in c.get("ports", [])
            }
    return ports


def selected(selector: Manifest) -> list[str]:
    """Return the names of our pods that a selector means."""
    labels = dict(selector.get("matchLabels", {}))
    for expression in selector.get("matchExpressions", []):
        if expression["key"] == "app.kubernetes.io/name":
            return list(expression["values"])
        labels[expression["key"]] = expression["values"][0]
    if labels.get("ray.io/cluster") == "masklake":
        return ["ray"]
    if "ray.io/originated-from-crd" in labels:
        return ["submitter"]
    return [labels["app.kubernetes.io/name"]]


def test_nothing_is_allowed_by_default() -> None:
    """One policy takes every pod and allows neither direction."""
    assert policies()["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_policies_name_pods_and_ports_that_exist() -> None:
    """A selector that matches no pod, or a port at which none listens, is a mistake that nobody reports."""
    known = listening()
    for name, policy in policies().items():
        if not policy["podSelector"]:
            continue
        for one in selected(policy["podSelector"]):
            assert one in known or one == "submitter", name
        for rule in policy.get("ingress", []):
            ports = {port["port"] for port in rule.get("ports", [])}
            assert ports <= set().union(*(known[one] for one in selected(policy["podSelector"]))), name
            for peer in rule["from"]:
                for one in selected(peer["podSelector"]):
                    assert one in known or one in OUTSIDE or one == "submitter", name
        for rule in policy.get("egress", []):
            ports = {port["port"] for port in rule.get("ports", [])}
            for peer in rule["to"]:
                if "podSelector" in peer:
                    assert ports <= set().union(*(known[one] for one in selected(peer["podSelector"]))), name


def test_no_policy_lets_a_pod_ask_for_the_clouds_credentials() -> None:
    """The metadata service of clouds is excepted wherever addresses are allowed."""
    blocks = [
        peer["ipBlock"]
        for policy in policies().values()
        for rule in policy.get("egress", [])
        for peer in rule["to"]
        if "ipBlock" in peer
    ]
    assert blocks
    assert all("169.254.0.0/16" in block["except"] for block in blocks)


def test_both_ends_of_a_connection_are_allowed() -> None:
    """Where one of our pods may connect to another, the other lets it in."""
    allowed_in: set[tuple[str, str, int]] = set()
    wanted: set[tuple[str, str, int]] = set()
    for policy in policies().values():
        if not policy["podSelector"]:
            continue
        here = selected(policy["podSelector"])
        for rule in policy.get("ingress", []):
            for peer in rule["from"]:
                for port in rule.get("ports", [{"port": 0}]):
                    allowed_in |= {(a, b, port["port"]) for a in selected(peer["podSelector"]) for b in here}
        for rule in policy.get("egress", []):
            for peer in rule["to"]:
                if "podSelector" in peer:
                    for port in rule.get("ports", [{"port": 0}]):
                        wanted |= {(a, b, port["port"]) for a in here for b in selected(peer["podSelector"])}
    assert wanted == {(a, b, port) for a, b, port in allowed_in if a not in OUTSIDE}


# ---------------------------------------------------------------- what belongs together


def test_ray_version_is_that_of_the_lock() -> None:
    """KubeRay chooses probes and autoscaler by this number; the image has the lock's Ray."""
    assert ALL["RayCluster/masklake"]["spec"]["rayVersion"] == locked("ray")


def test_ray_job_and_flows_use_the_cluster_that_is_there() -> None:
    """The RayJob selects the cluster by name; flows reach the Service that KubeRay makes for its head."""
    assert ALL["RayJob/night"]["spec"]["clusterSelector"] == RAY_LABELS
    assert "RayCluster/masklake" in ALL
    night = ALL["ConfigMap/nightly"]["data"]["nightly.toml"]
    assert 'address = "http://masklake-head-svc:8265"' in night


def test_flows_have_the_token_as_a_file() -> None:
    """The worker of flows, a client of the cluster, has authentication on and the token mounted."""
    container = PODS["Deployment/prefect-worker/0"]["containers"][0]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert environment["RAY_AUTH_MODE"] == "token"
    path = Path(str(environment["RAY_AUTH_TOKEN_PATH"]))
    assert path.name == "auth_token"
    assert {"name": "ray-token", "mountPath": str(path.parent), "readOnly": True} in container["volumeMounts"]


def test_workers_scale_and_the_head_computes_nothing() -> None:
    """GPU and CPU workers come and go with the work; a full head would end every run."""
    spec = ALL["RayCluster/masklake"]["spec"]
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert spec["enableInTreeAutoscaling"] is True
    assert set(groups) == {"cpu", "gpu"}
    assert all(group["minReplicas"] < group["maxReplicas"] for group in groups.values())
    limits = groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == "1"
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_disruption_budget_guards_the_head() -> None:
    """A drain waits for the head of the cluster."""
    budget = ALL["PodDisruptionBudget/ray-head"]["spec"]
    assert budget["minAvailable"] == 1
    assert budget["selector"]["matchLabels"] == {**RAY_LABELS, "ray.io/node-type": "head"}


def test_no_registry_is_named() -> None:
    """Whoever deploys chooses the registry: no file of infra/ names one."""
    hosts = re.compile(
        r"\b(docker\.io|quay\.io|ghcr\.io|gcr\.io|registry\.k8s\.io|nvcr\.io|pytorch\.org|pypi\.org)\b"
    )
    for file in INFRA.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            assert not hosts.search(file.read_text(encoding="utf-8")), file
