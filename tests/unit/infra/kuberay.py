"""RayCluster and RayJob, strictly: the fields that our manifests use, and no others.

No package that pip can bring has KubeRay's custom resource definitions, so what is asked of them is written
down here, from the API of KubeRay v1.7.0 (ray.io/v1; authOptions.secretName is there since v1.6.0). A field
that is not listed is an error: look it up, then list it. With KUBERAY_CRDS set to a folder that holds
ray.io_rayclusters.yaml and ray.io_rayjobs.yaml (helm-chart/kuberay-operator/crds in KubeRay's repository) the
tests hold the manifests, and this list, against the definitions themselves.

Pod templates and what else is Kubernetes' own are checked by the schemas of kubernetes-validate.
"""

from collections.abc import Iterator
from typing import Any, Final

import jsonschema
import kubernetes_validate

KUBERNETES_VERSION: Final = "1.34"

COUNT: Final = {"type": "integer", "minimum": 0}
TEXT: Final = {"type": "string"}
TEXTS: Final = {"type": "object", "additionalProperties": TEXT}
POD_TEMPLATE: Final = {"type": "object"}  # these three: see pod_templates
CONTAINER_PART: Final = {"type": "object"}
CONTAINER_PARTS: Final = {"type": "array", "items": {"type": "object"}}


def fields(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    """Return the schema of an object that has these fields and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


HEAD_GROUP = fields(
    required=("template", "rayStartParams"),  # without the latter the operator fails on a nil map
    rayStartParams=TEXTS,
    template=POD_TEMPLATE,
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
)
WORKER_GROUP = fields(
    required=("groupName", "minReplicas", "maxReplicas", "template", "rayStartParams"),
    groupName={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"},
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    idleTimeoutSeconds=COUNT,
    rayStartParams=TEXTS,
    template=POD_TEMPLATE,
)
RAY_CLUSTER_SPEC = fields(
    required=("headGroupSpec", "rayVersion", "authOptions"),  # the last two are our own demand
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=fields(required=("mode", "secretName"), mode={"enum": ["token"]}, secretName=TEXT),
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=fields(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources=CONTAINER_PART,
        securityContext=CONTAINER_PART,
        env=CONTAINER_PARTS,
        volumeMounts=CONTAINER_PARTS,
    ),
    headGroupSpec=HEAD_GROUP,
    workerGroupSpecs={"type": "array", "items": WORKER_GROUP},
)
RAY_JOB_SPEC = fields(
    required=("entrypoint",),
    entrypoint=TEXT,
    clusterSelector=TEXTS,
    rayClusterSpec=RAY_CLUSTER_SPEC,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    submitterPodTemplate=POD_TEMPLATE,
    submitterConfig=fields(backoffLimit=COUNT),
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    runtimeEnvYAML=TEXT,
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
)
SPECS: Final = {"RayCluster": RAY_CLUSTER_SPEC, "RayJob": RAY_JOB_SPEC}


def validate(manifest: dict[str, Any]) -> None:
    """Check a RayCluster or a RayJob; an unknown field is an error. Raises jsonschema.ValidationError."""
    named = fields(required=("name",), name=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
    whole = fields(
        required=("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "ray.io/v1"},
        kind={"const": manifest["kind"]},
        metadata=named,
        spec=SPECS[manifest["kind"]],
    )
    jsonschema.Draft202012Validator(whole).validate(manifest)
    for template in pod_templates(manifest):
        wrapped = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        kubernetes_validate.validate(wrapped, KUBERNETES_VERSION, strict=True)


def pod_templates(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the pods that a RayCluster or a RayJob asks for.

    The autoscaler's container, which the operator adds to the head's pod, comes as a pod of its own.
    """
    spec = manifest["spec"]
    if manifest["kind"] == "RayJob":
        if "submitterPodTemplate" in spec:
            yield spec["submitterPodTemplate"]
        if "rayClusterSpec" not in spec:
            return
        spec = spec["rayClusterSpec"]
    yield spec["headGroupSpec"]["template"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["template"]
    if "autoscalerOptions" in spec:
        own = ("version", "idleTimeoutSeconds", "upscalingMode")
        container = {key: value for key, value in spec["autoscalerOptions"].items() if key not in own}
        head = spec["headGroupSpec"]["template"]["spec"]
        container |= {"name": "autoscaler", "image": head["containers"][0]["image"]}
        yield {"spec": {**head, "containers": [container]}}
