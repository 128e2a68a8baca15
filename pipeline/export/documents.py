"""JSON documents of any size, written piece by piece."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_array(path: Path, values: Iterable[str]) -> None:
    """Write a JSON array of values that are JSON already."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write("[")
        for index, value in enumerate(values):
            file.write(f"{',' if index else ''}\n{value}")
        file.write("\n]\n")
    beside.replace(path)


def write_object(path: Path, values: Mapping[str, Any], arrays: Mapping[str, Iterable[str]]) -> None:
    """Write a JSON object: some values, then arrays whose values are JSON already, one after the other."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.write(json.dumps(dict(values))[:-1])
        for name, array in arrays.items():
            file.write(f",\n{json.dumps(name)}: [")
            for index, value in enumerate(array):
                file.write(f"{',' if index else ''}\n{value}")
            file.write("\n]")
        file.write("}\n")
    beside.replace(path)
