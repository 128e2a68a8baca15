"""Read brush masks by Label Studio's own SDK. Writes a line of JSON each.

Run as `python label_studio.py TASKS_JSON`, with the packages of requirements.txt on PYTHONPATH.
"""

import json
import sys
from pathlib import Path

from label_studio_sdk.converter.brush import decode_rle


def main() -> None:
    """Write the masks of all tasks."""
    for task in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        for result in task["predictions"][0]["result"]:
            shape = result["original_height"], result["original_width"], 4
            mask_HW = decode_rle(result["value"]["rle"]).reshape(shape)[:, :, 3] > 0
            (label,) = result["value"]["brushlabels"]
            told = {"image": task["data"]["image"], "label": label, "mask": mask_HW.tolist()}
            sys.stdout.write(json.dumps(told) + "\n")


main()
