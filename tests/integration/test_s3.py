"""The same over S3: source and table in buckets of two different stores."""

from pathlib import Path

import pytest

from pipeline.config import StorageConfig
from pipeline.encode import decode_mask
from pipeline.errors import FetchError, StorageError
from pipeline.listing import list_objects
from pipeline.probes import check_table_store
from pipeline.storage import Wanted, read_many
from tests.integration.commands import faults, run
from tests.integration.images import HOSTILE_NAMES, image
from tests.integration.stores import Store, check_once_each, rows_of


def test_a_bucket_becomes_a_table(store: Store, checkpoint: Path, tmp_path: Path) -> None:
    """Prefixes, globs and hostile names are taken literally; then only what is new or changed is done."""
    images = store.new_bucket()
    # A table needs a store that sends parts of objects as the protocol says: rclone's does not.
    masks = f"{store.new_bucket()}/nightly/scans" if store.holds_tables else f"{tmp_path}/nightly/scans"
    reading = store.environment if store.holds_tables else {}
    names = [f"plate {number}/well-{number}/{number}.png" for number in range(6)]
    names += [f"plate 0/{name}" for name in HOSTILE_NAMES]
    wanted = {f"{images}/scans/{name}" for name in names}
    for seed, uri in enumerate(sorted(wanted)):
        store.put(uri, image(seed))
    store.put(f"{images}/scans/plate 1/broken.PNG", b"broken")
    for other in ("scans/notes.txt", "scans/a.jpg", "scans/thumb_1.png", "scans/old/2.png", "scans2/3.png"):
        store.put(f"{images}/{other}", image(99))
    options = ["--table", masks, "--model", checkpoint, "--include", "*.png"]
    options += ["--exclude", "thumb_*", "--exclude", "old/*"]
    command = ["segment", f"{images}/scans/", *options]

    first = run(*command, environment=store.environment)
    assert first.code == 0, first
    assert "conditional writes" not in first.stderr, first
    rows = rows_of(masks, reading)
    check_once_each(rows, {*wanted, f"{images}/scans/plate 1/broken.PNG"})
    for row in rows:
        assert (row["status"] == "ok") == (row["uri"] in wanted), row["error"]
        if row["status"] == "ok":
            mask_HW = decode_mask(row["mask"]["bytes"])
            assert mask_HW.shape == (row["height"], row["width"])
            assert sum(row["class_pixels"]) == mask_HW.size

    again = run(*command, environment=store.environment | faults(no_ray=1))
    assert again.stdout.startswith(f"nothing to do: {len(rows)} images listed"), again

    added = {f"{images}/scans/later/{number}.png" for number in range(2)}
    changed, deleted = sorted(wanted)[:2]
    for seed, uri in enumerate([*added, changed], start=200):
        store.put(uri, image(seed))
    store.delete(deleted)
    third = run(*command, environment=store.environment)
    assert third.code == 0, third
    assert "  images      3 in" in third.stdout, third
    after = rows_of(masks, reading)
    check_once_each([row for row in after if row["run_id"] != rows[0]["run_id"]], {*added, changed})
    assert len(after) == len(rows) + 3

    if store.holds_tables:
        compacted = run("compact", masks, "--retention-hours", "0", environment=store.environment)
        assert compacted.code == 0, compacted
        assert sorted(map(str, rows_of(masks, reading))) == sorted(map(str, after))
        shown = run("show", masks, environment=store.environment)
        assert f"rows      {len(after)}: {len(after) - 1} masks, 1 failures, 3 files" in shown.stdout, shown


def test_a_store_is_asked_whether_it_can_hold_a_table(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second conditional PUT is refused where two runs can be kept apart; the probe leaves nothing."""
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    config = StorageConfig(endpoint_url=store.environment["AWS_ENDPOINT_URL"])
    bucket = store.new_bucket()
    if store.holds_tables:
        assert check_table_store(f"{bucket}/masks", config) == store.fenced
    else:
        with pytest.raises(StorageError, match="another store"):
            check_table_store(f"{bucket}/masks", config)
    assert store.files.ls(bucket) == []


def test_a_store_that_cannot_hold_a_table(rclone: Store, checkpoint: Path, tmp_path: Path) -> None:
    """rclone answers 200 where part of an object is asked for, which Delta's readers refuse: said at once."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(image(1))
    bucket = rclone.new_bucket()
    result = run(
        *("segment", tmp_path / "images", "--table", f"{bucket}/masks", "--model", checkpoint),
        environment=rclone.environment | faults(no_ray=1),
    )
    assert result.code == 1, result
    assert result.stderr.startswith(f"error: {bucket}/masks: "), result
    assert "part" in result.stderr
    assert "another store" in result.stderr
    assert rclone.files.ls(bucket) == []


def test_what_cannot_be_fetched_is_tried_again(rclone: Store, checkpoint: Path, tmp_path: Path) -> None:
    """A manifest names an object that is not there: a failed row, until the object is."""
    bucket, table, manifest = rclone.new_bucket(), tmp_path / "masks", tmp_path / "images.txt"
    uris = [f"{bucket}/{number}.png" for number in range(4)]
    manifest.write_text("\n".join(uris))
    for seed, uri in enumerate(uris[1:]):
        rclone.put(uri, image(seed))
    command = ["segment", manifest, "--table", table, "--model", checkpoint, "--max-failed", "1"]

    first = run(*command, environment=rclone.environment)
    assert first.code == 0, first
    rows = rows_of(table)
    check_once_each(rows, set(uris))
    (failed,) = [row for row in rows if row["status"] == "failed"]
    assert failed["uri"] == uris[0]
    assert failed["error"]["stage"] == "fetch"

    rclone.put(uris[0], image(50))
    second = run(*command, environment=rclone.environment)
    assert second.code == 0, second
    assert "  images      1 in" in second.stdout, second
    rows = rows_of(table)
    check_once_each(rows, set(uris))
    assert {row["status"] for row in rows} == {"ok"}
    assert sum(row["run_id"] == failed["run_id"] for row in rows) == 3


def test_what_is_read_is_the_version_that_was_listed(rclone: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that changed after the listing, even to one as long, fails for itself; If-Match or not."""
    for name, value in rclone.environment.items():
        monkeypatch.setenv(name, value)
    bucket, config = rclone.new_bucket(), StorageConfig()
    rclone.put(f"{bucket}/a.png", b"as it was")
    rclone.put(f"{bucket}/b.png", b"unchanged")
    pages = list(list_objects(bucket, config))
    listed = {one.uri: Wanted(one.uri, one.etag, one.size) for page in pages for one in page}
    rclone.put(f"{bucket}/a.png", b"as it is!")
    changed, kept = read_many([listed[f"{bucket}/a.png"], listed[f"{bucket}/b.png"]], config)
    assert isinstance(changed, FetchError)
    assert "changed after it was listed" in str(changed)
    assert kept == b"unchanged"
