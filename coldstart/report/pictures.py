"""Images that a page embeds: small copies within a budget of bytes; what has no room is counted."""

from __future__ import annotations

import base64
import io
import re
import struct
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

SIDES = (320, 240, 160)
"""Pixels of a copy's longest side: the first at which all images have room, else the last."""
SMALL_FILE = 4_000
"""An image of so few bytes is taken as it is."""
TINY_PIXELS = 160

_TRIED = 32
"""Images that tell how large copies will be."""
_LARGEST_PIXELS = 16_000_000
_PNG = b"\x89PNG\r\n\x1a\n"
_HEADER = 24
"""Signature, length and kind of the first chunk, width, height."""
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error)
"""What Pillow raises for files that are not, or not quite, images."""

_HASH = re.compile(r"[0-9a-f]{64}")


class Copy(NamedTuple):
    """An image as it stands in the page."""

    uri: str
    """As a data URI."""
    width: int
    """Of the original, in pixels."""
    height: int
    """Of the original, in pixels."""

    @property
    def tiny(self) -> bool:
        """Whether it is so small that single pixels matter, and are better not blurred."""
        return max(self.width, self.height) < TINY_PIXELS


@dataclass(frozen=True)
class Gallery:
    """The images of a page."""

    copies: dict[str, Copy]
    """By the hash of the original."""
    left_out: Counter[str] = field(default_factory=Counter)
    """How many are not there, by reason."""


def gallery(directory: Path, names: Collection[str], budget: int) -> Gallery:
    """Copies of the images of these names, each once.

    Where they do not all have room, the hashes of their contents decide, so that nobody chooses.
    Without Pillow images cannot be made smaller, and fewer have room.
    """
    distinct = sorted(set(names))
    side = _side(directory, distinct, budget)
    found = Gallery({})
    with ThreadPoolExecutor() as pool:
        copies = pool.map(lambda name: _copy(directory, name, side), distinct)
        for name, made in zip(distinct, copies, strict=True):
            if isinstance(made, str):
                found.left_out[made] += 1
                continue
            kind, data, width, height = made
            if len(data) > budget:
                found.left_out["no room"] += 1
                continue
            budget -= len(data)
            uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            found.copies[name] = Copy(uri, width, height)
    return found


def _side(directory: Path, names: Collection[str], budget: int) -> int:
    """The longest side at which copies of all images have room, going by a few of them."""
    tried = list(names)[:_TRIED]
    for side in SIDES:
        made = [copy for name in tried if not isinstance(copy := _copy(directory, name, side), str)]
        if not made or sum(len(copy[1]) for copy in made) / len(made) * len(names) <= budget:
            return side
    return SIDES[-1]


def _copy(directory: Path, name: str, side: int) -> tuple[str, bytes, int, int] | str:
    """Kind, bytes, width and height; or why there is none."""
    path = directory / f"{name}.png"
    if not _HASH.fullmatch(name) or not path.is_file():
        return "missing"
    data = path.read_bytes()
    if not data.startswith(_PNG) or len(data) < _HEADER:
        return "no PNG"
    width, height = struct.unpack(">II", data[_HEADER - 8 : _HEADER])
    if len(data) <= SMALL_FILE or find_spec("PIL") is None:
        return "png", data, width, height
    if width * height > _LARGEST_PIXELS:
        return "too large"
    try:
        return "webp", _shrunk(data, side, (width, height)), width, height
    except _UNREADABLE:
        return "no PNG"


def _shrunk(data: bytes, side: int, size: tuple[int, int]) -> bytes:
    from PIL import Image  # noqa: PLC0415 - optional

    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
    except Image.DecompressionBombError as error:
        raise ValueError("its size is not that of its first chunk") from error
    if image.size != size:
        raise ValueError("its size is not that of its first chunk")
    image.thumbnail((side, side))
    stream = io.BytesIO()
    image.convert("RGB").save(stream, format="WEBP", quality=70, method=0)
    return stream.getvalue()
