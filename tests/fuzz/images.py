"""Any bytes are an image that is whole, or an error of the image: `decode`."""

from tests.fuzz.engine import check_line, fuzz, instrumented

with instrumented():
    import numpy as np

    from pipeline.decode import MAX_MESSAGE, decode
    from pipeline.errors import ImageError
    from tests.faults.corpus.seeds import seeds

MAX_PIXELS = 1 << 16
CHANNELS = (1, 3, 4)


def check(data: bytes) -> None:
    """Decode all but the first byte, which chooses the number of channels."""
    if not data:
        return
    channels = CHANNELS[data[0] % 3]
    try:
        image_HWC = decode(data[1:], channels=channels, max_pixels=MAX_PIXELS, seconds=5)
    except ImageError as error:
        check_line(error)
        text = str(error)
        if len(text) > MAX_MESSAGE or not (text.isascii() and text.isprintable()):
            raise AssertionError(repr(error)) from error
    else:
        height, width, depth = image_HWC.shape
        assert image_HWC.dtype == np.uint8
        assert depth == channels
        assert 0 < height * width <= MAX_PIXELS


if __name__ == "__main__":
    fuzz("images", check, (bytes([index % 3]) + data for index, data in enumerate(seeds().values())))
