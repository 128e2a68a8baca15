"""Hostile images made from good ones: the same ones each time."""

import random
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Final, NamedTuple

HEAD: Final = 16  # first bytes of a file, by which its format is known
ABSURD: Final = (0, 1, 0x7FFF, 0xFFFF, 0x10000, 100_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


class Hostile(NamedTuple):
    """A file, and what it was made from."""

    name: str  # of the file; its extension is often another format's
    kind: str  # how it was made
    seed: str  # name of the good image
    data: bytes


Mutate = Callable[[bytes, random.Random], bytes]


def mutations(seeds: Mapping[str, bytes]) -> Iterator[Hostile]:
    """Yield 151 files for each good image: cut, flipped, zeroed, overwritten, spliced, under a wrong name."""
    suffixes = sorted({PurePath(name).suffix for name in seeds})
    for seed, data in seeds.items():
        chance = random.Random(seed)
        yield Hostile(f"{seed}-renamed{chance.choice(suffixes)}", "renamed", seed, data)
        for kind, changed in _changed(data, chance, list(seeds.values())):
            yield Hostile(f"{seed}-{len(changed)}{chance.choice(suffixes)}", kind, seed, changed)


def _changed(data: bytes, chance: random.Random, others: list[bytes]) -> Iterator[tuple[str, bytes]]:
    for part in range(20):  # at every 5 %
        yield "cut", data[: len(data) * part // 20]
    heads = {other[:4]: other[:HEAD] for other in others if other[:4] != data[:4]}
    for head in list(heads.values())[:8]:
        yield "other head", head + data[HEAD:]
    while len(heads) < 8:  # formats with one way to begin
        heads[bytes([len(heads)])] = b""
        yield "other head", chance.randbytes(HEAD) + data[HEAD:]
    counts: dict[Mutate, int] = {_flip: 60, _overwrite: 25, _zero: 15, _repeat: 6, _remove: 8}
    for mutate, count in counts.items():
        for _ in range(count):
            yield mutate.__name__.strip("_"), mutate(data, chance)
    for _ in range(8):
        other = chance.choice(others)
        yield "splice", data[: _place(data, chance)] + other[_place(other, chance) :]


def _place(data: bytes, chance: random.Random) -> int:
    """Return a place in the file, as often in its first hundred bytes as in all of it."""
    return chance.randrange(min(len(data), 100) if chance.random() < 0.5 else len(data))


def _flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8, 32))):
        changed[_place(data, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _overwrite(data: bytes, chance: random.Random) -> bytes:
    """Put a number that no size, offset or count should be."""
    value = struct.pack(chance.choice("<>") + "I", chance.choice(ABSURD))
    if chance.random() < 0.3:
        value = value[: chance.choice((1, 2))]
    place = _place(data, chance)
    return data[:place] + value + data[place + len(value) :]


def _zero(data: bytes, chance: random.Random) -> bytes:
    start = _place(data, chance)
    length = min(chance.choice((1, 4, 16, 64, len(data))), len(data) - start)
    return data[:start] + chance.choice((b"\0", b"\xff")) * length + data[start + length :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start, length = _place(data, chance), chance.choice((4, 16, 64, 256))
    return data[:start] + data[start : start + length] * chance.choice((2, 20, 500)) + data[start + length :]


def _remove(data: bytes, chance: random.Random) -> bytes:
    start = _place(data, chance)
    return data[:start] + data[start + chance.choice((1, 2, 8, 64)) :]
