"""A mask comes back as it was, and any other bytes are an error: `encode_mask`, `decode_mask`."""

from tests.fuzz.engine import check_line, fuzz, instrumented

with instrumented():
    import numpy as np

    from pipeline.encode import decode_mask, encode_mask
    from pipeline.errors import DecodeError
    from tests.faults.corpus.seeds import seeds

PALETTE = [(value, 255 - value, value // 2) for value in range(256)]


def check(data: bytes) -> None:
    """Read the bytes as a mask's file; then take them for labels, whose width is the first byte."""
    try:
        read_HW = decode_mask(data)
    except DecodeError as error:
        check_line(error)
    else:
        np.testing.assert_array_equal(decode_mask(encode_mask(read_HW, PALETTE)), read_HW)
    if len(data) > 2:
        labels = np.frombuffer(data, np.uint8)[1:]
        width = min(data[0] or 1, len(labels))
        labels_HW = labels[: len(labels) // width * width].reshape(-1, width)
        colours = PALETTE[: int(labels_HW.max()) + 1]
        png = encode_mask(labels_HW, colours)
        np.testing.assert_array_equal(decode_mask(png), labels_HW)
        assert encode_mask(labels_HW, colours) == png


if __name__ == "__main__":
    fuzz("masks", check, (data for name, data in seeds().items() if name.endswith(".png")))
