"""The row: one truth for writers, readers and docs.

One row is one image (one version of one object) under one recipe: a mask, or a failure with its reason.
"""

import json
from typing import Final

import pyarrow as pa

PARTITIONS: Final = ("run_id", "status")  # dropping a run, or its failures, rewrites no other file

# Hugging Face reads a struct as an image in exactly this form only: nullable, bytes before path, not large.
IMAGE: Final = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])

ERROR: Final = pa.struct(
    [
        pa.field("stage", pa.string()),  # fetch | decode | limit | predict | encode | worker
        pa.field("type", pa.string()),  # exception class
        pa.field("message", pa.string()),  # one line
    ]
)

ATTENTION: Final = pa.struct(
    [
        pa.field("block", pa.string()),  # where in the network, e.g. level4
        pa.field("head", pa.int32()),
        pa.field("tokens", pa.int32()),  # of one tile
        pa.field("entropy", pa.float32()),  # nats, mean over tokens
        pa.field("entropy_normalized", pa.float32()),  # 0: one token, 1: uniform
        pa.field("effective_tokens", pa.float32()),  # mean of 1 / sum p^2
        pa.field("distance_rms_px", pa.float32()),  # how far attention looks, image pixels
        pa.field("received_max", pa.float32()),  # most that one token receives; uniform is 1
        pa.field("residual_ratio", pa.float32()),  # |gamma * attention| / |input|
    ]
)

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

ROW: Final = pa.schema(
    [
        pa.field("image_id", pa.string()),  # 32 hex digits: hash of URI and ETag
        pa.field("uri", pa.string()),
        pa.field("etag", pa.string()),  # local files: size-mtime_ns
        pa.field("size_bytes", pa.int64()),
        pa.field("last_modified", TIMESTAMP),
        pa.field("status", pa.string()),  # ok | failed
        pa.field("error", ERROR),  # null when ok
        pa.field("width", pa.int32()),  # pixels, as displayed (EXIF orientation applied)
        pa.field("height", pa.int32()),
        pa.field("mask", IMAGE),  # palette PNG of 1 to 8 bits, value = class id
        pa.field("class_pixels", pa.list_(pa.int64())),  # by class id
        pa.field("confidence", pa.float32()),  # mean probability of the winning class
        pa.field("attention", pa.list_(ATTENTION)),
        pa.field("attention_map", IMAGE),  # grey PNG: log(1 + received), 255 = its maximum
        pa.field("recipe", pa.string()),
        pa.field("model", pa.string()),  # URI@digest
        pa.field("run_id", pa.string()),
        pa.field("finished_at", TIMESTAMP),
    ]
)

# What a data file holds: Delta keeps partition values in its log; `datasets` finds images by this key.
FILE_ROW: Final = pa.schema([field for field in ROW if field.name not in PARTITIONS]).with_metadata(
    {
        "huggingface": json.dumps(
            {"info": {"features": {name: {"_type": "Image"} for name in ("mask", "attention_map")}}}
        )
    }
)

# One image of a plan: what LIST knows of it.
PLAN_ROW: Final = pa.schema(
    [ROW.field(name) for name in ("image_id", "uri", "etag", "size_bytes", "last_modified")]
)
