"""The task of the quickstart, real handwritten digits and their sum; it knows nothing of models.

Scans and combinations of digits are split before anything is drawn, so a test picture shows scans
that no training row shows, in a combination that no training row has in any order.
"""

import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from numpy.typing import NDArray
from PIL import Image as PILImage
from sklearn.datasets import load_digits  # type: ignore[import-untyped]

QUESTION = "What is the sum of the digits?"
DIGITS_PER_PICTURE = 3
CELL = 28  # one patch of 14 x 14, merged 2 x 2: each digit becomes exactly one image token
GLYPH = 24  # the 8 x 8 scan is enlarged to this and moved about in its cell
HELD_OUT_SCANS = 0.25
HELD_OUT_COMBINATIONS = 0.2
CAREFUL_SHARE = 0.4  # of the cold-start responses; the others are guesses
ROWS = {"sft": 6000, "rl": 2000, "test": 400}

Combination = tuple[int, ...]


@dataclass(frozen=True)
class Drawing:
    """A picture and the digits written in it."""

    picture: PILImage.Image
    digits: Combination


@dataclass(frozen=True)
class Source:
    """One side of the split: enlarged scans by digit, and the combinations that may be drawn."""

    glyphs: dict[int, list[PILImage.Image]]
    combinations: list[Combination]

    def drawings(self, rng: np.random.Generator) -> Iterator[Drawing]:
        """Draw without end; every combination is as likely as every other."""
        while True:
            digits = self.combinations[rng.integers(len(self.combinations))]
            yield Drawing(self._picture(digits, rng), digits)

    def _picture(self, digits: Combination, rng: np.random.Generator) -> PILImage.Image:
        picture = PILImage.new("L", (CELL * len(digits), CELL))
        for column, digit in enumerate(digits):
            glyph = self.glyphs[digit][rng.integers(len(self.glyphs[digit]))]
            left, top = rng.integers(0, CELL - GLYPH + 1, size=2)
            picture.paste(glyph, (column * CELL + int(left), int(top)))
        return picture.convert("RGB")


def split_sources(seed: int) -> tuple[Source, Source]:
    """Return what may be drawn for training and what may be drawn for the test."""
    rng = np.random.default_rng([seed, 0])
    images, labels = load_digits(return_X_y=True)
    scans = (images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    held_out = np.zeros(len(scans), dtype=bool)
    held_out[rng.permutation(len(scans))[: int(HELD_OUT_SCANS * len(scans))]] = True

    # Addition commutes, so a combination is held out in all its orders at once.
    unordered = list(itertools.combinations_with_replacement(range(10), DIGITS_PER_PICTURE))
    shuffled = rng.permutation(len(unordered))
    kept_back = {unordered[i] for i in shuffled[: int(HELD_OUT_COMBINATIONS * len(unordered))]}
    ordered = list(itertools.product(range(10), repeat=DIGITS_PER_PICTURE))
    train, test = (
        Source(
            glyphs={
                digit: [enlarged(scan) for scan in scans[(held_out == is_test) & (labels == digit)]]
                for digit in range(10)
            },
            combinations=[c for c in ordered if (tuple(sorted(c)) in kept_back) == is_test],
        )
        for is_test in (False, True)
    )
    return train, test


def enlarged(scan: NDArray[np.uint8]) -> PILImage.Image:
    """Return the scan as it is pasted into pictures."""
    return PILImage.fromarray(scan).resize((GLYPH, GLYPH), PILImage.Resampling.BICUBIC)


def spaced(digits: Combination) -> str:
    """Write the digits out: `4 6 1`."""
    return " ".join(map(str, digits))


def additions(digits: Combination) -> str:
    """Add the digits one at a time: `4+6=10, 10+1=11`."""
    totals = list(itertools.accumulate(digits))
    steps = zip(totals[:-1], digits[1:], totals[1:], strict=True)
    return ", ".join(f"{total}+{digit}={after}" for total, digit, after in steps)


def conclusion(digits: Combination) -> str:
    """Return the sentence that holds the right answer."""
    return f"The sum is \\boxed{{{sum(digits)}}}."


def careful_response(digits: Combination) -> str:
    """Read, add step by step, conclude: `I read 4 6 1. 4+6=10, 10+1=11. The sum is ...`."""
    return f"I read {spaced(digits)}. {additions(digits)}. {conclusion(digits)}"


def guessed_response(rng: np.random.Generator) -> str:
    """Answer without looking: any sum that three digits can make, whatever the picture shows."""
    guess = rng.integers(9 * DIGITS_PER_PICTURE + 1)
    return f"It looks like \\boxed{{{guess}}}."


def split_rows(split: str, source: Source, seed: int) -> list[dict[str, Any]]:
    """Return the rows of one split: the cold-start split has responses, the others have not."""
    rng = np.random.default_rng([seed, 1 + list(ROWS).index(split)])
    rows = []
    for drawing in itertools.islice(source.drawings(rng), ROWS[split]):
        row: dict[str, Any] = {
            "images": [{"bytes": png(drawing.picture), "path": None}],
            "problem": QUESTION,
            "answer": str(sum(drawing.digits)),
        }
        if split == "sft":
            careful = rng.random() < CAREFUL_SHARE
            row["response"] = careful_response(drawing.digits) if careful else guessed_response(rng)
        rows.append(row)
    return rows


def png(picture: PILImage.Image) -> bytes:
    """Return the picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def write_splits(folder: Path, seed: int) -> None:
    """Write `sft.parquet`, `rl.parquet` and `test.parquet`, in the layout of `datasets`."""
    train, test = split_sources(seed)
    for split in ROWS:
        rows = split_rows(split, test if split == "test" else train, seed)
        columns: dict[str, Any] = {name: Value("string") for name in rows[0]}
        features = Features(columns | {"images": List(Image())})
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")
