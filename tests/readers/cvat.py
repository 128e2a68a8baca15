"""Read the objects of a CVAT archive "Segmentation mask 1.1" by Datumaro, on which CVAT builds.

Writes a line of JSON each.
Run as `python cvat.py FOLDER`, the archive's content, with the packages of requirements.txt on PYTHONPATH.
"""

import json
import sys

from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset


def main() -> None:
    """Write the masks of all images."""
    read = Dataset.import_from(sys.argv[1], "voc_segmentation")
    labels = [label.name for label in read.categories()[AnnotationType.label]]
    for item in read:
        for one in item.annotations:
            told = {"image": item.id, "label": labels[one.label], "mask": one.image.astype(bool).tolist()}
            sys.stdout.write(json.dumps(told) + "\n")


main()
