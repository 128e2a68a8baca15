"""The row: its columns are where and what the design says, and other tools know its images."""

import datasets
import pyarrow as pa
import pytest

from pipeline.schema import FILE_ROW, IMAGE, PARTITIONS, PLAN_ROW, ROW


@pytest.mark.parametrize("name", ["mask", "attention_map"])
def test_image_columns_have_the_one_form_that_is_recognised(name: str) -> None:
    """Nullable, bytes before path, neither large: to `datasets` anything else is silently no image."""
    field = ROW.field(name)
    assert field.nullable
    assert field.type == IMAGE
    assert [(f.name, f.type, f.nullable) for f in field.type] == [
        ("bytes", pa.binary(), True),
        ("path", pa.string(), True),
    ]


def test_datasets_knows_the_image_columns() -> None:
    """The metadata of a data file makes `datasets` decode both columns as images, and no other."""
    features = datasets.Features.from_arrow_schema(FILE_ROW)
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    assert images == ["mask", "attention_map"]


def test_a_file_holds_all_columns_but_the_partitions() -> None:
    """Partition values stand in the log and in the path, not in the file."""
    assert [*FILE_ROW.names] == [name for name in ROW.names if name not in PARTITIONS]
    assert PARTITIONS == ("run_id", "status")


def test_a_plan_row_is_the_beginning_of_a_row() -> None:
    """What LIST knows of an image goes into its row as it is."""
    assert [ROW.field(name) for name in PLAN_ROW.names] == [*PLAN_ROW]


def test_every_column_can_be_null() -> None:
    """A failed row leaves the columns of a mask empty, and Delta would refuse nulls in others."""
    assert all(field.nullable for field in ROW)
