"""The import rules: what may know what. The first lines are the rules; the rest reads the sources."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A module of `pipeline` may import those of the rows above its own, not those beside it, and none below.
LAYERS = (
    ("harmless",),
    ("background", "errors", "events", "head", "png", "streams", "watchdog", "window"),
    ("config", "schema", "drawing", "room", "sizing"),
    ("train.config", "train.schema"),
    ("explain",),
    ("storage",),
    ("probes",),
    ("device",),
    ("engine",),
    ("engine_openvino",),
    ("listing", "decode", "tiling", "predict", "encode", "progress", "session", "demo.nuclei", "demo.server"),
    (
        "attention_at",
        "conditional",
        "export.label_studio_rle",
        "train.image_places",
        "train.labels",
        "train.names",
        "train.split",
        "train.coco",
        "train.metrics",
        "train.progress",
    ),
    ("train.annotations",),
    ("registry.versions", "lease", "train.cvat", "train.label_studio", "train.labelled"),
    ("registry.aliases", "train.grid", "train.pictures", "train.show"),
    ("registry.checkpoints", "table", "train.card"),
    ("specimens",),
    (
        "inventory",
        "blocks",
        "registry.promotion",
        "runs",
        "train.evaluate",
        "train.tables",
    ),  # blocks composes the stages
    ("train.label_files",),
    ("plan", "features", "meters", "query", "train.sources"),
    (
        *("export.colours", "export.confidence", "export.documents", "export.item"),
        *("export.listed", "export.originals", "export.regions"),
    ),
    ("export.at_once", "export.folder", "export.pieces", "export.selection"),
    (
        *("export.coco", "export.cvat", "export.geojson", "export.huggingface", "export.label_studio"),
        *("export.objects", "export.panoptic", "export.simple"),
    ),
    ("export.formats",),
    ("export.run",),
    ("report", "quote"),
    ("overview", "contact_sheet", "drift"),
    ("pick", "report_page.advice", "report_page.html", "report_page.pack", "report_page.told"),
    ("report_page.ask", "report_page.came", "report_page.says"),
    ("report_page.answer", "report_page.charts", "report_page.pictures"),
    ("report_page.page",),
    ("gallery.guard", "gallery.keys", "gallery.narrow", "gallery.pictures", "gallery.rows"),
    ("gallery.attention", "gallery.snapshot"),
    ("gallery.facts", "gallery.index"),
    ("gallery.state",),
    ("gallery.asked", "gallery.pairs"),
    ("gallery.app",),
    ("gallery.server",),
    ("job",),
    ("demo.run",),
    ("train.augment", "train.losses", "train.network", "train.optimiser", "train.sampling", "train.state"),
    ("train.folder", "train.loop", "train.stream"),
    ("train.worker",),
    ("train.hub",),
    ("train.prepare", "train.finish"),
    ("train.job",),
    ("doctor.finding", "doctor.web"),
    ("doctor.settings", "doctor.packages", "doctor.machine", "doctor.gpu", "doctor.store"),
    ("doctor.cluster", "doctor.ray_start", "doctor.prefect_server", "doctor.table"),
    ("doctor.examine",),
    ("cli_errors", "cli_options"),
    ("cli_doctor", "cli_models", "cli_table", "cli_train"),
    ("cli_export", "cli_view"),
    ("cli",),
    ("__main__",),
)
BESIDE = {("predict", "tiling")}  # the exception

# These turn values into one another. They do no I/O, so errors are all they need of ours.
PURE = ("decode", "tiling", "encode", "png", "room", "sizing", "window")

# What may import `models`; `models` itself imports nothing of ours but `models`.
MAY_IMPORT_MODELS = ("attention_at", "engine", "predict", "registry.", "report_page.answer", "train.", "job")

# A library that one place knows, so that only this place changes with it.
ONLY_IN = {
    "ray": (
        "pipeline.doctor.cluster",  # the token that Ray's clients send
        "pipeline.doctor.ray_start",
        "pipeline.job",
        "pipeline.meters",
        "pipeline.session",
        "pipeline.train.job",
        "pipeline.train.hub",
        "pipeline.train.stream",
        "flows.ray_job",
    ),
    "fsspec": ("pipeline.storage",),
    "s3fs": ("pipeline.storage",),
    "aiobotocore": (),
    "boto3": (),
    "botocore": (),
    "deltalake": ("pipeline.table",),
    "prefect": ("flows",),
    "openvino": ("pipeline.engine_openvino",),
    "torch": (
        "models",
        "pipeline.attention_at",
        "pipeline.device",
        "pipeline.doctor.gpu",
        "pipeline.engine",
        "pipeline.engine_openvino",
        "pipeline.predict",
        "pipeline.streams",
        "pipeline.train",
    ),
    "safetensors": ("models.checkpoint",),
    "pydantic": (
        "pipeline.config",
        "pipeline.report_page.told",
        "pipeline.train.config",
        "flows.night",
        "flows.deployments",
    ),
    "typer": (
        "pipeline.cli",
        "pipeline.cli_doctor",
        "pipeline.cli_errors",
        "pipeline.cli_export",
        "pipeline.cli_models",
        "pipeline.cli_options",
        "pipeline.cli_table",
        "pipeline.cli_train",
        "pipeline.cli_view",
        "flows.cli",
    ),
    "duckdb": ("pipeline.plan", "pipeline.query"),
    "starlette": ("pipeline.gallery",),
    "uvicorn": ("pipeline.gallery.server",),
    "jinja2": ("pipeline.report_page.html",),
    "vl_convert": ("pipeline.report_page.charts",),
    "kornia": ("pipeline.train.augment", "pipeline.train.losses"),
    "scipy": ("pipeline.drift", "pipeline.export.regions"),
    "shapely": ("pipeline.export.geojson",),
    "skimage": ("pipeline.export.objects",),
    "matplotlib": ("pipeline.train.pictures",),
    "pycocotools": ("pipeline.export.coco", "pipeline.train.annotations"),
    "PIL": (
        "pipeline.decode",
        "pipeline.encode",
        "pipeline.drawing",
        "pipeline.contact_sheet",
        "pipeline.specimens",
        "pipeline.report_page.pictures",
        "pipeline.demo",
        "pipeline.export.panoptic",
        "pipeline.gallery.pictures",
        "pipeline.train.grid",
        "pipeline.train.labels",
    ),
}

# `masklake --help` must answer at once: none of these is imported with the command line.
NOT_WITH_CLI = (
    "ray",
    "prefect",
    "torch",
    "pyarrow",
    "deltalake",
    "fsspec",
    "s3fs",
    "numpy",
    "PIL",
    "pydantic",
    "duckdb",
    "starlette",
    "uvicorn",
)

# Prediction is used on machines that have nothing but torch, numpy and safetensors.
NOT_WITH_PREDICT = (
    "ray",
    "prefect",
    "pydantic",
    "fsspec",
    "s3fs",
    "pyarrow",
    "deltalake",
    "rich",
    "typer",
    "openvino",
)


def files() -> dict[str, Path]:
    """Return every source file by its dotted name."""
    found = {}
    for package in ("pipeline", "models", "flows"):
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


FILES = files()
PIPELINE = sorted(
    name.removeprefix("pipeline.") for name, file in FILES.items() if name.startswith("pipeline.")
)
MODULES = [name for name in PIPELINE if FILES[f"pipeline.{name}"].name != "__init__.py"]


def statements(name: str) -> Iterator[ast.Import | ast.ImportFrom]:
    """Yield every import statement of a file, those within functions too."""
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def imports(name: str) -> set[str]:
    """Return the dotted names of all modules that a file imports."""
    found = set()
    for node in statements(name):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {module for module in below if module in FILES}
            found |= modules or {node.module}  # `from pipeline import storage` imports pipeline.storage
    return found


def ours(name: str) -> set[str]:
    """Return the modules of `pipeline` that a file imports, by their names below it."""
    return {module.removeprefix("pipeline.") for module in imports(name) if module.startswith("pipeline.")}


def layer(name: str) -> int:
    return next(level for level, modules in enumerate(LAYERS) if name in modules)


def test_the_reader_of_imports_sees_all_forms() -> None:
    """The rules below would hold of anything if imports were overlooked: some that are known are found."""
    assert {"inventory", "config", "table"} <= ours("pipeline.plan")
    assert {"job", "quote", "progress"} <= ours("pipeline.cli")  # within functions
    assert "ray.data" in imports("pipeline.job")
    assert "models.weights" in imports("pipeline.registry.checkpoints")


@pytest.mark.parametrize("name", MODULES)
def test_pipeline_imports_point_downwards(name: str) -> None:
    """A module knows only what lies below it: stages do not know each other, and nothing knows the job."""
    assert any(name in modules for modules in LAYERS), f"pipeline.{name} has no layer: add it to LAYERS"
    for other in ours(f"pipeline.{name}"):
        assert layer(other) < layer(name) or (name, other) in BESIDE, f"{name} must not import {other}"


@pytest.mark.parametrize("name", PURE)
def test_pure_stages_do_no_io(name: str) -> None:
    """Decoding, tiling, encoding, room and sizing know neither storage nor configuration."""
    assert ours(f"pipeline.{name}") <= {"errors", "png"}


@pytest.mark.parametrize("name", sorted(name for name in FILES if name.partition(".")[0] == "models"))
def test_models_import_nothing_of_ours(name: str) -> None:
    """The network can be taken out of this repository and used elsewhere."""
    assert not {module.partition(".")[0] for module in imports(name)} & {"pipeline", "flows"}


@pytest.mark.parametrize("name", PIPELINE)
def test_few_know_the_network(name: str) -> None:
    """Only prediction, training, the registry and the job have to do with the network."""
    if any(module.partition(".")[0] == "models" for module in imports(f"pipeline.{name}")):
        assert name.startswith(MAY_IMPORT_MODELS)


@pytest.mark.parametrize("name", sorted(FILES))
def test_pipeline_does_not_know_flows(name: str) -> None:
    """Orchestration is on top: whatever is not a flow works without it."""
    if not name.startswith("flows"):
        assert not [module for module in imports(name) if module.partition(".")[0] == "flows"]


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_library_is_known_in_one_place(library: str) -> None:
    """Each library that could be exchanged is imported where the design says, and nowhere else."""
    users = [name for name in FILES if library in {module.partition(".")[0] for module in imports(name)}]
    wrong = [
        name
        for name in users
        if not any(name == place or name.startswith(f"{place}.") for place in ONLY_IN[library])
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_are_absolute_and_named(name: str) -> None:
    """No wildcard and no relative import: a name's origin can be read off."""
    for node in statements(name):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}"
            assert "*" not in {alias.name for alias in node.names}, f"line {node.lineno}"


def run(code: str) -> str:
    """Return what a fresh interpreter prints."""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_command_line_imports_nothing_heavy() -> None:
    """Importing the command line leaves Ray, torch, Arrow and the storage libraries alone."""
    loaded = run("import sys, flows.cli; print(*sys.modules)").split()
    assert not set(NOT_WITH_CLI) & {name.partition(".")[0] for name in loaded}


@pytest.mark.parametrize(
    "name",
    [
        "pipeline.blocks",
        "pipeline.gallery.server",
        "pipeline.job",
        "pipeline.meters",
        "pipeline.quote",
        "pipeline.train.hub",
        "pipeline.train.stream",
    ],
)
def test_only_who_computes_imports_torch(name: str) -> None:
    """What plans, decodes, crops, encodes or writes does without: torch costs each process 2 s and 150 MB."""
    assert "torch" not in run(f"import sys, {name}; print(*sys.modules)").split()


PREDICT_ALONE = """
import sys
for name in {blocked}:
    sys.modules[name] = None  # importing it raises ImportError
from types import SimpleNamespace
import numpy as np
from models.attention_unet import AttentionUNet
from models.checkpoint import Checkpoint
from models.config import AttentionUNetConfig, Normalisation
from pipeline.predict import Segmenter
config = AttentionUNetConfig(widths=(8, 16), attention_levels=(1,))
checkpoint = Checkpoint(
    model=AttentionUNet(config).eval(), config=config, classes=(), metrics={{}}, digest="",
    normalisation=Normalisation(mean=(0.5,) * 3, std=(0.5,) * 3),
)
settings = SimpleNamespace(
    device="cpu", precision="float32", engine="auto", tile_batch=2, threads=1, timeout=60
)
segmenter = Segmenter(checkpoint, settings, SimpleNamespace(side=32, overlap=0))
print(segmenter([np.zeros((40, 50, 3), np.uint8)])[0].labels_HW.shape)
"""


def test_prediction_runs_alone() -> None:
    """`models` and `pipeline.predict` work where Ray, Prefect, pydantic, fsspec and Arrow are missing."""
    assert run(PREDICT_ALONE.format(blocked=NOT_WITH_PREDICT)).strip() == "(40, 50)"
