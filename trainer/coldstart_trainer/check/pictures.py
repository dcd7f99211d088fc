"""What an image looks like: a perceptual hash, grey cells, a small copy; never decoded unbounded.

The hash finds candidates: its bits say where brightness falls from left to right. Line drawings on
white share most of them, so two images count as alike only where their grey cells agree, too.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coldstart_trainer.images import FORMATS, UNREADABLE, HugeImageError, ImageError, facts

CELLS = 24
"""Grey cells in a row and in a column."""

CELL_TOLERANCE = 24
"""How much brighter or darker, of 255, one cell of an image may be that still looks the same: what
scaling by a third makes of lines two pixels wide."""

HASH_RADIUS = 4
"""Bits of 64 in which the hashes of images that look the same may differ."""

LONGEST_RATIO = 200
"""Longer images are refused by the models' own resizing."""

SMALL_SIDE = 240
"""Pixels of a small copy's longest side."""

_STEP = 4
"""A fall in brightness of less, of 255, is noise: a plain area has no bits."""

_WHITE = (255, 255, 255, 255)


@dataclass(frozen=True)
class Look:
    """An image as the checks see it."""

    width: int = 0
    height: int = 0
    hash: int = 0
    cells: bytes = b""
    """Empty where it cannot be decoded."""
    wrong: str = ""
    """Why it cannot be used."""
    huge: bool = False
    """Whether that is its size."""

    @property
    def ratio(self) -> float:
        """Its longer side by its shorter one."""
        return max(self.width, self.height) / max(1, min(self.width, self.height))


def look(value: dict[str, Any] | None) -> Look:
    """What there is to see of a stored image."""
    try:
        known = facts(value)
    except ImageError as error:
        return Look(wrong=str(error), huge=isinstance(error, HugeImageError))
    assert value is not None
    seen = Look(known.width, known.height)
    if seen.ratio > LONGEST_RATIO:
        return seen  # the stage drops it; its pixels take seconds
    try:
        with _decoded(value, 4 * CELLS) as image:
            grey = _flat(image).convert("L")
            cells = grey.resize((CELLS, CELLS), Image.Resampling.BOX)
            rows = np.asarray(grey.resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    except UNREADABLE as error:
        return Look(known.width, known.height, wrong=f"cannot be decoded: {error}")
    bits = np.packbits(rows[:, :-1] > rows[:, 1:] + _STEP)
    return Look(known.width, known.height, int.from_bytes(bits.tobytes()), cells.tobytes())


def small_copy(value: dict[str, Any] | None) -> str:
    """A small copy as a data URI; empty where the image cannot be decoded."""
    try:
        known = facts(value)
        assert value is not None
        if Look(known.width, known.height).ratio > LONGEST_RATIO:
            return ""
        with _decoded(value, SMALL_SIDE) as image:
            copy = _flat(image).convert("RGB")
            copy.thumbnail((SMALL_SIDE, SMALL_SIDE))
    except (ImageError, *UNREADABLE):
        return ""
    made = io.BytesIO()
    copy.save(made, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(made.getvalue()).decode()}"


@contextmanager
def _decoded(value: dict[str, Any], side: int) -> Iterator[Image.Image]:
    """The pixels of an image whose size `facts` has found bearable.

    Of a JPEG, only so many are made as the side asks for; its whole file is read all the same.
    """
    stream = io.BytesIO(value["bytes"]) if value["bytes"] is not None else Path(value["path"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(stream, formats=FORMATS) as image:
            image.draft("RGB", (side, side))
            image.load()
            yield image


def _flat(image: Image.Image) -> Image.Image:
    """The image on white where it is transparent: what is hidden is not what is seen."""
    if not image.has_transparency_data:
        return image
    below = Image.new("RGBA", image.size, _WHITE)
    return Image.alpha_composite(below, image.convert("RGBA"))
