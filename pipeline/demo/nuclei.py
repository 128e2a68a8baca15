"""Draw fluorescence-like images of nuclei with their exact masks, and fill the demo's bucket with them.

numpy and Pillow only. An image is built in the order of a microscope: nuclei (ellipses in a warped space,
filled with chromatin) > nuclei out of focus, fibres, specks > optics > uneven illumination > shot and read
noise > 12-bit counts > 8-bit RGB. Everything follows from the seed.

Shape suffixes: H, W image height and width in pixels; C channels.
"""

import io
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipeline.errors import ConfigError

Field = NDArray[np.float32]

FULL_SCALE = 4095  # counts of a 12-bit camera
MARGIN = 24  # pixels drawn around the image and cut off, so that nuclei lie across its border
GREY, DAPI, GFP = (1.0, 1.0, 1.0), (0.22, 0.36, 1.0), (0.25, 1.0, 0.35)  # RGB share of full brightness


DAYS = ("2026-03-02", "2026-03-03", "2026-03-04")  # the bucket's folders
SIZES = ((256, 256),) * 6 + (
    (192, 256),
    (320, 240),
    (360, 360),
    (416, 520),
    (512, 512),
)  # height, width in pixels
# Object names are other people's text. This one is legal, and everything that shows names has to survive it.
HOSTILE_NAME = f'{DAYS[2]}/it\'s "50%2F50" <script>alert(1) & żółć 細胞 #1+2.png'
BROKEN_NAMES = (f"{DAYS[0]}/truncated.png", f"{DAYS[1]}/notes.png", f"{DAYS[2]}/empty.jpg")


@dataclass(frozen=True, slots=True)
class NucleiImage:
    """A drawn image and what is true of it. Fields carry their shape, as arguments and local names do."""

    image_HWC: NDArray[np.uint8]  # RGB, 0..255
    mask_HW: NDArray[np.uint8]  # 1 on nuclei in focus, 0 elsewhere
    counts_HW: NDArray[np.uint16]  # 0..4095 of the camera, before colour and the cut to 8 bits


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What differs from image to image, as one slide, stain and objective differ from another."""

    diameter: float  # pixels, of the median nucleus
    size_spread: float  # standard deviation of log(diameter)
    coverage: float  # share of the image that nuclei fill, before overlaps
    clustering: float  # probability that a nucleus lies against an earlier one
    elongation: float  # mean of log(long axis / short axis)
    roughness: float  # outline's departure from an ellipse, share of the diameter
    texture: float  # contrast of the chromatin
    nucleoli: float  # darkness of the holes in the chromatin, 0 = none
    signal: float  # counts of a typical nucleus
    signal_spread: float  # standard deviation of log(brightness) between nuclei
    background: float  # counts
    unevenness: float  # share of the light that is lost in the corners
    haze: float  # share of the nuclei's light that spreads far around them
    ghosts: float  # nuclei out of focus, share of those in focus
    focus: float  # pixels, sigma of the optical blur
    gain: float  # counts for one photon: more is noisier
    read_noise: float  # counts
    tint: tuple[float, float, float]


def generate(seed: int | Sequence[int], height: int = 256, width: int = 256) -> NucleiImage:
    """Return one image of `height` x `width` px; equal arguments give equal images.

    Two in a hundred show no nucleus at all, and one in eight is very dim, as on a real plate.
    Raises ConfigError if the image would be smaller than 16 px on a side.
    """
    if min(height, width) < 16:
        raise ConfigError(f"a generated image needs 16 px or more on a side, got {height}x{width} px")
    rng = np.random.default_rng(seed)
    scene = _draw_scene(rng)
    light, mask = _expose(rng, scene, height + 2 * MARGIN, width + 2 * MARGIN)
    inner = np.s_[MARGIN : MARGIN + height, MARGIN : MARGIN + width]
    counts = _count_photons(rng, scene, light[inner])
    colour = np.array(scene.tint, dtype=np.float32) / (FULL_SCALE / 255.0)
    image = (counts[:, :, None] * colour + 0.5).astype(np.uint8)
    return NucleiImage(image, mask[inner].astype(np.uint8), counts)


# ---- what is in the image ----------------------------------------------------------------------------------


def _draw_scene(rng: np.random.Generator) -> Scene:
    diameter = float(np.clip(rng.lognormal(math.log(22), 0.42), 9, 54))
    signal = rng.uniform(130, 420) if rng.random() < 0.125 else rng.lognormal(math.log(1900), 0.5)
    signal = float(np.clip(signal, 130, 3300))
    return Scene(
        diameter=diameter,
        size_spread=rng.uniform(0.08, 0.28),
        coverage=0.0
        if rng.random() < 0.02
        else float(np.clip(rng.lognormal(math.log(0.12), 0.7), 0.015, 0.42)),
        clustering=rng.choice([0.05, 0.3, 0.65], p=[0.45, 0.35, 0.2]),
        elongation=rng.uniform(0.12, 0.6),
        roughness=rng.uniform(0.015, 0.065),
        texture=rng.uniform(0.05, 0.3),
        nucleoli=rng.uniform(0.2, 0.55) if diameter > 18 and rng.random() < 0.6 else 0.0,
        signal=signal,
        signal_spread=rng.uniform(0.1, 0.45),
        background=float(rng.uniform(0.02, 0.16) * signal + rng.uniform(10, 120)),
        unevenness=rng.uniform(0.05, 0.4),
        haze=rng.uniform(0.02, 0.16),
        ghosts=rng.uniform(0.1, 0.4) if rng.random() < 0.4 else 0.0,
        focus=float(np.clip(rng.lognormal(math.log(0.9), 0.4), 0.5, diameter / 9 + 0.2)),
        gain=float(rng.lognormal(math.log(1.6), 0.8)),
        read_noise=rng.uniform(3, 16),
        tint=GREY if (hue := rng.random()) < 0.78 else DAPI if hue < 0.96 else GFP,
    )


@dataclass(frozen=True, slots=True)
class _Nucleus:
    y: float
    x: float
    long_axis: float  # pixels, half the length
    short_axis: float
    angle: float  # radians
    bend: float  # 0 = ellipse, more = bean
    brightness: float  # 1 = typical


def _place_nuclei(rng: np.random.Generator, scene: Scene, height: int, width: int) -> list[_Nucleus]:
    """Return nuclei that keep some distance, touch their neighbours, or now and then overlap them."""
    area = height * width
    crowd = int(min(scene.coverage * area / (math.pi / 4 * scene.diameter**2), area / 600))
    count = int(rng.poisson(crowd)) if scene.coverage else 0
    radius = scene.diameter / 2 * rng.lognormal(0, scene.size_spread, count)
    stretch = np.exp(rng.gamma(3.0, scene.elongation / 3, count))
    brightness = rng.lognormal(0, scene.signal_spread, count)
    dividing = rng.random(count) < 0.03  # condensed for division: small, narrow, bright
    radius[dividing] *= 0.75
    stretch[dividing] *= 1.5
    brightness[dividing] *= 1.9
    brightness = np.maximum(brightness, 0.45)  # the dimmest nucleus still outshines a ghost
    gap = np.where(rng.random(count) < 0.12, 0.7, 1.12)  # allowed distance, in sums of radii
    angle, bend = rng.uniform(0, math.pi, count), np.abs(rng.normal(0, 0.16, count))
    # A spot per try; clustered nuclei try the rim of an earlier one instead.
    tries = 12
    spots = rng.random((count, tries, 2)) * (height, width)
    turns, hosts = rng.uniform(0, 2 * math.pi, (count, tries)), rng.random((count, tries))
    clustered = rng.random(count) < scene.clustering
    placed = np.zeros((count, 3), dtype=np.float64)  # y, x, radius
    nuclei: list[_Nucleus] = []
    for i in range(count):
        done = len(nuclei)
        candidates = spots[i]
        if clustered[i] and done:
            host = placed[(hosts[i] * done).astype(int)]
            reach = (host[:, 2] + radius[i]) * gap[i]
            candidates = host[:, :2] + reach[:, None] * np.stack([np.sin(turns[i]), np.cos(turns[i])], axis=1)
        away = candidates[:, None] - placed[None, :done, :2]
        near = (away**2).sum(-1) < ((placed[:done, 2] + radius[i]) * gap[i] * 0.98) ** 2
        free = np.flatnonzero(~near.any(axis=1))
        if free.size:
            y, x = candidates[free[0]]
            placed[done] = y, x, radius[i]
            root = math.sqrt(stretch[i])
            # Plain floats: a numpy float64 would turn every float32 array that it meets into float64.
            shape = radius[i] * root, radius[i] / root, angle[i], bend[i], brightness[i]
            nuclei.append(_Nucleus(float(y), float(x), *(float(value) for value in shape)))
    return nuclei


def _expose(
    rng: np.random.Generator, scene: Scene, height: int, width: int
) -> tuple[Field, NDArray[np.bool_]]:
    """Return the light that reaches the camera, 1 = a typical nucleus, and the mask of nuclei in focus."""
    nuclei = _place_nuclei(rng, scene, height, width)
    light, mask = _shine(rng, scene, nuclei, height, width)
    _add_specks(rng, light, scene)
    light = _blur(light, scene.focus)
    far = _resize(light, max(2, round(height / scene.diameter)), max(2, round(width / scene.diameter)))
    if scene.ghosts:
        ghosts = _place_nuclei(rng, scene, height, width)
        ghosts = ghosts[: math.ceil(scene.ghosts * len(ghosts))]
        ghost_light, _ = _shine(rng, scene, ghosts, height, width)
        step = max(3.0, scene.diameter / 6)
        small = _blur(_resize(ghost_light, round(height / step), round(width / step)), 1.0)
        light += np.float32(rng.uniform(0.08, 0.3)) * _resize(small, height, width)
    cytoplasm = 1 + 0.4 * _noise(rng, height, width, scene.diameter * 0.8)
    light += scene.haze * np.maximum(_resize(_blur(far, 1.0), height, width) * cytoplasm, 0)
    if rng.random() < 0.12:
        light += _draw_fibres(rng, height, width)
    return light, mask


def _shine(
    rng: np.random.Generator, scene: Scene, nuclei: Sequence[_Nucleus], height: int, width: int
) -> tuple[Field, NDArray[np.bool_]]:
    """Return the nuclei's own light, sharp, and where they are."""
    light, mask = np.zeros((height, width), np.float32), np.zeros((height, width), np.bool_)
    if not nuclei:
        return light, mask
    # Outlines are irregular because the space in which the ellipses lie is warped.
    lobes = scene.roughness * scene.diameter
    warp_y, warp_x = (lobes * _noise(rng, height, width, scene.diameter / 1.8) for _ in range(2))
    chromatin = 1 + scene.texture * (
        0.6 * _noise(rng, height, width, max(1.6, scene.diameter / 12))
        + 0.5 * _noise(rng, height, width, scene.diameter / 4)
    )
    if scene.nucleoli:
        holes = _noise(rng, height, width, scene.diameter / 5)
        chromatin *= 1 - scene.nucleoli * np.clip((holes - 0.9) * 2.5, 0, 1)
    np.maximum(chromatin, 0.25, out=chromatin)
    rows, columns = np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)
    warp_y += rows
    warp_x += columns
    for nucleus in nuclei:
        reach = nucleus.long_axis * 1.3 + 2 * lobes + 2
        top, left = max(0, int(nucleus.y - reach)), max(0, int(nucleus.x - reach))
        window = np.s_[top : max(0, int(nucleus.y + reach)), left : max(0, int(nucleus.x + reach))]
        y, x = warp_y[window] - np.float32(nucleus.y), warp_x[window] - np.float32(nucleus.x)
        cos, sin = math.cos(nucleus.angle), math.sin(nucleus.angle)
        u = x * (cos / nucleus.long_axis) + y * (sin / nucleus.long_axis)
        v = y * (cos / nucleus.short_axis) - x * (sin / nucleus.short_axis)
        squared = u * u
        v += nucleus.bend * (squared - 0.4)
        squared += v * v
        edge = np.clip((1 - np.sqrt(squared)) * nucleus.short_axis + 0.5, 0, 1)
        glow = nucleus.brightness * edge * (1 - 0.3 * np.minimum(squared, 1)) * chromatin[window]
        # Where two overlap, light adds up, but less than twice: neither lies wholly in the plane of focus.
        below = light[window]
        light[window] = np.maximum(below, glow) + 0.45 * np.minimum(below, glow)
        mask[window] |= squared < 1
    return light, mask


def _add_specks(rng: np.random.Generator, light: Field, scene: Scene) -> None:
    """Add dust and fragments to the light: bright, a few pixels wide, and no nuclei."""
    height, width = light.shape
    grid = np.arange(-5, 6, dtype=np.float32)
    for _ in range(rng.poisson(rng.choice([0.5, 5.0], p=[0.7, 0.3]))):
        y, x = int(rng.integers(5, height - 5)), int(rng.integers(5, width - 5))
        sigma = rng.uniform(0.5, min(1.5, scene.diameter / 12))
        spot = np.exp(-(grid[:, None] ** 2 + (grid * rng.uniform(0.7, 1.4)) ** 2) / (2 * sigma**2))
        light[y - 5 : y + 6, x - 5 : x + 6] += np.float32(rng.uniform(0.3, 1.6)) * spot


def _draw_fibres(rng: np.random.Generator, height: int, width: int) -> Field:
    """Return the faint light of a few curved threads."""
    canvas = Image.new("L", (width, height))
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(1, 5)):
        heading = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0, 0.25, 24))
        steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * rng.uniform(5, 14)
        points = np.cumsum(steps, axis=0) + rng.random(2) * (width, height)
        pen.line([(float(x), float(y)) for x, y in points], fill=255, width=int(rng.integers(1, 4)))
    light = np.array(canvas, dtype=np.float32)
    light /= 255
    return _blur(light, rng.uniform(1.0, 2.0)) * np.float32(rng.uniform(0.08, 0.3))


# ---- what the camera makes of it ---------------------------------------------------------------------------


def _count_photons(rng: np.random.Generator, scene: Scene, light: Field) -> NDArray[np.uint16]:
    height, width = light.shape
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] - rng.uniform(-0.5, 0.5)
    x = np.linspace(-1, 1, width, dtype=np.float32) - rng.uniform(-0.5, 0.5)
    lamp = 1 - scene.unevenness * (y**2 + x**2) / 2
    clouds = 1 + 0.12 * _noise(rng, height, width, max(height, width) / 2.5)
    expected = np.maximum((light * scene.signal + scene.background * clouds) * lamp, 0)
    # Poisson noise by its normal limit: at these counts nobody sees the difference, and it takes a tenth.
    sigma = np.sqrt(scene.gain * expected + scene.read_noise**2)
    counts = expected + sigma * rng.standard_normal((height, width), dtype=np.float32)
    whole: NDArray[np.uint16] = np.clip(counts + 0.5, 0, FULL_SCALE).astype(np.uint16)
    return whole


def _noise(rng: np.random.Generator, height: int, width: int, scale: float) -> Field:
    """Return smooth random values of mean 0 and standard deviation near 1 that change over `scale` pixels."""
    rows, columns = max(2, math.ceil(height / scale) + 1), max(2, math.ceil(width / scale) + 1)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    return _resize(coarse, height, width) * np.float32(1.35)  # interpolation averages: make up for it


def _resize(field: Field, height: int, width: int) -> Field:
    resized = Image.fromarray(field).resize((max(1, width), max(1, height)), Image.Resampling.BICUBIC)
    return np.array(resized, dtype=np.float32)


def _blur(field: Field, sigma: float) -> Field:
    """Return the field under a Gaussian of `sigma` pixels, one axis after the other."""
    radius = max(1, math.ceil(3 * sigma))
    kernel = np.exp(-(np.arange(-radius, radius + 1, dtype=np.float32) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    for axis in (0, 1):
        pad = [(radius, radius) if i == axis else (0, 0) for i in (0, 1)]
        padded = np.pad(field, pad, mode="edge")
        size = field.shape[axis]
        field = np.zeros_like(field)
        for i, weight in enumerate(kernel):
            field += weight * (padded[i : i + size] if axis == 0 else padded[:, i : i + size])
    return field


# ---- the demo's bucket -------------------------------------------------------------------------------------


def write_bucket(bucket: Path, truth: Path, count: int = 200, seed: int = 0) -> dict[str, Path]:
    """Return object name > mask file for the `count` images written below `bucket`; masks go to `truth`.

    The images are PNG, JPEG, TIFF (some of 16 bits, with a 12-bit camera's range) and WebP of several sizes,
    one of them under HOSTILE_NAME. BROKEN_NAMES lie beside them: no reader can open those, and they have no
    mask. Masks are 8-bit palette PNG files, value 1 = nucleus; `masks.json` there holds the same mapping.
    """
    if count < 1:
        raise ConfigError(f"a demo bucket needs 1 image or more, got {count}")

    def write_one(i: int) -> tuple[str, Path]:
        rng = np.random.default_rng((seed, i))
        height, width = SIZES[rng.integers(len(SIZES))]
        nuclei = generate((seed, i, 1), height, width)
        suffix, data = encode(rng, nuclei)
        name = f"{DAYS[i % len(DAYS)]}/{'ABCDEFGH'[i // 36 % 8]}{i // 3 % 12 + 1:02}-{i:04}{suffix}"
        if i == count - 1:
            name, data = HOSTILE_NAME, _save(Image.fromarray(nuclei.image_HWC), "PNG")
        mask = Image.fromarray(nuclei.mask_HW).convert("P")
        mask.putpalette([0, 0, 0, 255, 255, 255])
        _write(bucket / name, data)
        _write(truth / f"{i:04}.png", _save(mask, "PNG"))
        return name, truth / f"{i:04}.png"

    with ThreadPoolExecutor() as threads:
        masks = dict(threads.map(write_one, range(count)))
    listing = {name: path.name for name, path in masks.items()}
    _write(truth / "masks.json", json.dumps(listing, ensure_ascii=False, indent=1).encode())
    whole = _save(Image.fromarray(generate((seed, count, 1)).image_HWC), "PNG")
    for name, data in zip(
        BROKEN_NAMES, (whole[: len(whole) // 2], b"This is no picture.\n", b""), strict=True
    ):
        _write(bucket / name, data)
    return masks


def encode(rng: np.random.Generator, nuclei: NucleiImage) -> tuple[str, bytes]:
    """Return a file suffix, and the image's bytes in that format: PNG, JPEG, TIFF (8 or 16 bits) or WebP."""
    image = Image.fromarray(nuclei.image_HWC)
    if np.ptp(nuclei.image_HWC, axis=2).max() == 0 and rng.random() < 0.5:
        image = image.convert("L")
    match rng.choice(["png", "jpeg", "tiff8", "tiff16", "webp"], p=[0.4, 0.3, 0.08, 0.12, 0.1]):
        case "png":
            return ".png", _save(image, "PNG")
        case "jpeg":
            return ".jpg", _save(image, "JPEG", quality=92)
        case "tiff8":
            return ".tif", _save(image, "TIFF", compression="tiff_lzw")
        case "tiff16":
            return ".tif", _save(Image.fromarray(nuclei.counts_HW), "TIFF", compression="tiff_adobe_deflate")
        case _:
            return ".webp", _save(image, "WEBP", quality=95, method=2)


def _save(image: Image.Image, kind: str, **options: str | int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
