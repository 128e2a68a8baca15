"""`masklake finetune` as a user runs it: real workers, real kills, and a checkpoint that segments."""

import io
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.config import StorageConfig
from pipeline.demo.nuclei import generate
from pipeline.registry.checkpoints import fetch_checkpoint
from pipeline.train.evaluate import evaluate_stored
from tests.integration.commands import Result, Running, run, wait_until
from tests.integration.conftest import Finished
from tests.integration.stores import Store, rows_of

IMAGES = 24
SMALL = ("--from-scratch", "--widths", "8,8,16", "--crop", "32", "--batch", "4", "--micro-batch", "2")
NO_RAY = {"PYTHONPATH": str(Path(__file__).with_name("faults")), "MASKLAKE_FAULT_NO_RAY": "1"}


def png(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def labelled_files(count: int = IMAGES, side: int = 64) -> dict[str, bytes]:
    """Return generated nuclei and their masks by their paths."""
    files = {}
    for seed in range(count):
        nuclei = generate((3, seed), side, side)
        files[f"images/n{seed:02}.png"] = png(nuclei.image_HWC)
        files[f"masks/n{seed:02}.png"] = png(nuclei.mask_HW)
    return files


def write_labelled(folder: Path) -> Path:
    """Write images/ and masks/ of generated nuclei into a folder, and return it."""
    for name, data in labelled_files().items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images/ and masks/."""
    return write_labelled(tmp_path_factory.mktemp("labelled"))


def finetune(source: object, out: object, *options: object) -> list[object]:
    return [
        *("finetune", source, "--out", out, "--classes", "background,nucleus", "--validation", "0.25"),
        *(*SMALL, *options),
    ]


def states(out: Path) -> list[int]:
    """Return the steps of the saved states."""
    return sorted(int(file.stem.removeprefix("state-")) for file in (out / "_training").glob("*/state-*.pt"))


def check_finished(out: Path, epochs: int, *more: str) -> dict[str, Any]:
    """Return metrics.json of a run that is whole: each epoch once, every file there, nothing left over."""
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    assert [row["epoch"] for row in metrics["epochs"]] == list(range(1, epochs + 1))
    assert {file.name for file in out.iterdir()} == {
        *("README.md", "config.json", "metrics.json", "model.safetensors", "pictures"),
        *("training.json", "validation.parquet", *more),
    }
    for name in ("curves", "confusion", "validation"):
        with Image.open(out / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 300
    assert 0 <= metrics["validation"]["dice"] <= 1
    return metrics


def test_from_a_bucket_to_a_registered_checkpoint(rclone: Store, checkpoint: Path, tmp_path: Path) -> None:
    """Stopped by SIGTERM it saves, the same command finishes, a third has nothing to do; the new checkpoint
    is in the registry, segments by its alias, and nothing of the run stays behind."""
    bucket = rclone.new_bucket()
    for name, data in labelled_files().items():
        rclone.put(f"{bucket}/{name}", data)
    out, registry = f"{bucket}/runs/one", tmp_path / "registry"
    command = finetune(bucket, out, "--epochs", "6", "--register", "nuclei", "--registry", registry)
    with Running(*command, environment=rclone.environment) as stopped:
        stopped.until(lambda: bool(rclone.files.glob(f"{out}/_training/*/state-*.pt")), "a state")
        os.kill(stopped.process.pid, signal.SIGTERM)
        result = stopped.result()
        wait_until(lambda: not stopped.left(), "the end of what the command had started", seconds=60)
    assert result.code == 128 + signal.SIGTERM, result
    assert "Traceback" not in result.stderr, result
    saved = int(re.search(r"stopped and saved at step (\d+)", result.stderr)[1])  # type: ignore[index]
    assert saved > 0

    finished = run(*command, environment=rclone.environment)
    assert finished.code == 0, finished
    assert f"going on from step {saved} of" in finished.stderr, finished
    assert "labelled images found" not in finished.stderr, "the images were inspected before"
    assert "nucleus" in finished.stdout
    assert "registered as nuclei@v1" in finished.stdout
    local = tmp_path / "copy"
    rclone.files.get(out, str(local), recursive=True)
    shutil.rmtree(local / "_training", ignore_errors=True)
    check_finished(local, 6)
    assert not rclone.files.find(f"{out}/_training")

    again = run(*command, environment=rclone.environment | NO_RAY)
    assert again.code == 0, again
    assert "nothing to do" in again.stdout
    assert "registered as nuclei@v1" in again.stdout, "the same checkpoint is no new version"

    assert run("models", "promote", "nuclei@v1", "--registry", registry).code == 0
    table = tmp_path / "masks"
    masks = run(
        *("segment", f"{bucket}/images", "--table", table, "--registry", registry),
        *("--model", "nuclei@production"),
        environment=rclone.environment,
    )
    assert masks.code == 0, masks
    rows = rows_of(table)
    assert len(rows) == IMAGES
    assert all("nuclei/v1@" in row["model"] for row in rows)


def test_a_killed_worker_costs_only_what_was_not_saved(labelled: Path, tmp_path: Path) -> None:
    """One of two workers is killed in mid-epoch: the others end, all start anew from the state, and every
    epoch is there once."""
    out = tmp_path / "out"
    with Running(*finetune(labelled, out, "--epochs", "8", "--workers", "2"), environment={}) as command:
        command.until(lambda: len(states(out)) > 0, "a state")
        victims = workers_of(command)
        assert len(victims) == 2
        os.kill(victims[0], signal.SIGKILL)
        result = command.result()
    assert result.code == 0, result
    assert "going on from step" in result.stderr, result
    check_finished(out, 8)


def workers_of(command: Running) -> list[int]:
    """Return the ids of the training workers below a command."""
    command.look()
    found = []
    for pid, _ in command.left():
        if Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::RayTrainWorker"):
            found.append(pid)
    return found


def test_a_killed_driver_is_repeated_with_other_workers(labelled: Path, tmp_path: Path) -> None:
    """kill -9 of the command in mid-run: the same one goes on, here with two workers instead of one; with
    other options it says which, and trains nothing."""
    out = tmp_path / "out"
    command = finetune(labelled, out, "--epochs", "8")
    with Running(*command, environment={}) as killed:
        killed.until(lambda: len(states(out)) > 0, "a state")
        killed.process.kill()
        killed.result()
        wait_until(lambda: not killed.left(), "the end of what the command had started", seconds=60)
    saved = states(out)[-1]

    other = run(*command, "--learning-rate", "0.5", environment=NO_RAY)
    assert other.code == 1
    assert "optim.learning_rate was 0.003, now 0.5" in other.stderr, other

    last = run(*command, "--workers", "1:2")
    assert last.code == 0, last
    assert f"going on from step {saved} of" in last.stderr, last
    check_finished(out, 8)


def test_masks_of_a_table_as_pseudo_labels(finished: Finished, checkpoint: Path, tmp_path: Path) -> None:
    """A table that `segment` wrote trains its own checkpoint further: the classes are the checkpoint's. The
    validation set can be measured on afterwards, though its masks lay in the table."""
    out = tmp_path / "out"
    result = run(
        *("finetune", finished.table, "--model", checkpoint, "--out", out, "--validation", "0.4"),
        *("--crop", "32", "--batch", "4", "--micro-batch", "2", "--epochs", "1"),
    )
    assert result.code == 0, result
    metrics = check_finished(out, 1, "validation")
    assert list(metrics["validation"]["classes"]) == ["background", "cell", "edge"]
    here = StorageConfig()
    measured = evaluate_stored(fetch_checkpoint(str(out), here), f"file://{out}/validation.parquet", here)
    assert measured["dice"] == pytest.approx(metrics["validation"]["dice"], abs=1e-3)


def check_error(result: Result, *words: str) -> None:
    """The command ended with one clear line that has these words."""
    assert result.code == 1, result
    assert "Traceback" not in result.stderr, result
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result
    for word in words:
        assert word in errors[0], errors[0]


def test_what_is_wrong_with_the_data_is_said_before_the_first_step(labelled: Path, tmp_path: Path) -> None:
    """A mask of another size and one with an unknown value: one line names both, nothing is trained."""
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(labelled, source)
    (source / "masks/n03.png").write_bytes(png(generate((3, 3), 48, 48).mask_HW))
    mask = generate((3, 5), 64, 64).mask_HW.copy()
    mask[0, :3] = 7
    (source / "masks/n05.png").write_bytes(png(mask))
    result = run(*finetune(source, out, "--epochs", "1"))
    check_error(result, "n03", "64 x 64", "48 x 48", "n05", "7 (3 px)")
    assert not states(out)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda s: shutil.rmtree(s / "masks"), (), ("masks/{name}.png", "no")),
        (lambda s: (s / "masks/n07.png").unlink(), (), ("n07", "mask")),
        (lambda s: (s / "images/n08.png").unlink(), (), ("n08", "image")),
        (lambda s: None, ("--workers", "3"), ("3 workers", "--batch")),
        (lambda s: None, ("--workers", "3:1"), ("MIN:MAX", "3:1")),
        (lambda s: None, ("--batch", "5"), ("batch (5)", "micro_batch (2)")),
        (lambda s: None, ("--loss", "hinge"), ("optim.loss", "hinge")),
        (lambda s: None, ("--device", "cuda"), ("no CUDA device",)),
        (lambda s: None, ("--model", "nuclei@production", "--registry", "nowhere"), ()),
    ],
)
def test_bad_input(
    change: Any, options: tuple[object, ...], words: tuple[str, ...], labelled: Path, tmp_path: Path
) -> None:
    """Each is one clear line, and what can be seen without the images is said before anything starts."""
    source = tmp_path / "source"
    shutil.copytree(labelled, source)
    change(source)
    command = finetune(source, tmp_path / "out", *options)
    if "--model" in options:
        command = [word for word in command if word not in ("--from-scratch", "--widths", "8,8,16")]
    check_error(run(*command, environment=NO_RAY), *words)


def test_what_stands_still_is_not_waited_for(labelled: Path, tmp_path: Path) -> None:
    """With a limit that inspection or workers cannot keep, the run ends by itself and says which of them."""
    result = run(*finetune(labelled, tmp_path / "out", "--epochs", "1", "--stall-timeout", "0.3"))
    check_error(result, "for 0.3 s", "--stall-timeout")
