"""Which problems are nearly the same: similar words, the same figures, images that look alike.

Words are compared as sets of three in a row (shingles): MinHash signatures find pairs without
comparing each with each, the shingles themselves decide. Numbers, operators and names of points
must be the same: a problem with other figures is another problem. No picture of bearable size
tells one digit in a drawing from another, so where the files of images differ, the answers must
not.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from coldstart_trainer.check.pictures import CELL_TOLERANCE, CELLS, HASH_RADIUS, Look

SIMILAR = 0.8
"""Share of the shingles of both that two similar texts have in common (Jaccard)."""

WINDOW = 16
"""With how many neighbours of the same key a problem is compared: the work stays linear where
thousands share one."""

_AT_ONCE = 10_000
"""Pairs whose cells are held side by side."""

_PERMUTATIONS, _BANDS = 64, 16
_AGREEMENT = 0.6
"""Signatures of similar texts agree in at least so much, but for one in 10,000."""

_TOKEN = re.compile(r"\d+(?:\.\d+)?|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\d_]+|[^\w\s]")
_FIGURE = re.compile(
    r"\d.*|[-+*/=<>^√\u00d7÷±≤≥]|[b-hj-zB-HJ-Z]|[A-Z]{2,4}"
    r"|\w*[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f]\w*"
)
_NOISE = frozenset(".,;:!?\"'$\\{}")
_CHUNKS = HASH_RADIUS + 1
"""Two hashes that differ in fewer bits have one of so many parts in common."""

_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass
class Problems:
    """Different problems, as far as it takes to find those that are nearly the same."""

    texts: list[str] = field(default_factory=list)
    """Different texts, as they are written."""
    signatures: list[np.ndarray] = field(default_factory=list)
    figures: list[int] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    """Different images."""
    text_of: list[int] = field(default_factory=list)
    """The text of each problem."""
    images_of: list[tuple[int, ...]] = field(default_factory=list)
    """The images of each problem."""
    answer_of: list[str] = field(default_factory=list)
    """The answer of each problem; empty where none is known."""

    def add_text(self, text: str) -> int:
        """Keep a text that is not there yet; its number."""
        tokens = _tokens(text)
        self.texts.append(text)
        self.signatures.append(_signature(_shingles(tokens)))
        self.figures.append(_figures(tokens))
        return len(self.texts) - 1

    def add(self, text: int, images: tuple[int, ...], answer: str = "") -> int:
        """Keep a problem; its number."""
        self.answer_of.append(answer)
        self.text_of.append(text)
        self.images_of.append(images)
        return len(self.text_of) - 1


def near_pairs(problems: Problems) -> list[tuple[int, int]]:
    """Pairs of problems that are nearly the same, each with the lower number first."""
    if len(problems.text_of) < 2:  # noqa: PLR2004 - a pair is two
        return []
    view = _View(problems)
    found = np.empty(0, dtype=np.int64)
    count = len(view.text)
    for candidates in view.candidates():
        fresh = np.setdiff1d(candidates, found)
        parts = np.split(fresh, range(_AT_ONCE, len(fresh), _AT_ONCE))
        kept = [part[view.alike(*np.divmod(part, count))] for part in parts]
        found = np.union1d(found, np.concatenate(kept))
    pairs = [divmod(int(pair), count) for pair in found]
    return [pair for pair in pairs if view.same(*pair)]


class _View:
    """The problems as arrays."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.text = np.array(problems.text_of, dtype=np.int64)
        self.signature = np.array(problems.signatures, dtype=np.uint32)
        self.count = np.array([len(images) for images in problems.images_of], dtype=np.uint64)
        self.figure = np.array(problems.figures, dtype=np.uint64)
        # Without images, all look alike: the words decide.
        blank = [Look(cells=bytes(CELLS * CELLS))]
        looks = problems.looks + blank
        self.hash = np.array([item.hash for item in looks], dtype=np.uint64)
        self.cells = np.array(
            [np.frombuffer(item.cells or bytes(CELLS * CELLS), np.uint8) for item in looks]
        )
        self.decoded = np.array([bool(item.cells) for item in looks])
        self.image = np.array(
            [images[0] if images else len(looks) - 1 for images in problems.images_of]
        )
        self._tokens: dict[int, frozenset[int]] = {}

    def candidates(self) -> Iterator[np.ndarray]:
        """Pairs that have a band of their signatures and a part of their hashes in common.

        A pair is one number: the lower one times how many there are, plus the higher one.
        """
        common = _mixed(self.figure[self.text], self.count)
        hashes = self.hash[self.image]
        bands = self.signature.reshape(len(self.signature), _BANDS, -1).astype(np.uint64)
        width = -(-64 // _CHUNKS)
        for band in range(_BANDS):
            words = common
            for column in range(bands.shape[2]):
                words = _mixed(words, bands[self.text, band, column])
            for chunk in range(_CHUNKS if self.count.any() else 1):
                part = (hashes >> np.uint64(chunk * width)) & np.uint64((1 << width) - 1)
                yield _neighbours(_mixed(words, part), hashes)

    def alike(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether words seem similar and the first images look alike."""
        alike = self._look_alike(self.image[first], self.image[second])
        at = np.flatnonzero(alike)
        one, two = self.text[first[at]], self.text[second[at]]
        agreement = (self.signature[one] == self.signature[two]).mean(axis=1)
        alike[at] = (one == two) | (agreement >= _AGREEMENT)
        return alike

    def same(self, first: int, second: int) -> bool:
        """Whether words are similar indeed, and the further images look alike, too."""
        images = (self.problems.images_of[first], self.problems.images_of[second])
        answers = {self.problems.answer_of[first], self.problems.answer_of[second]} - {""}
        if images[0] != images[1] and len(answers) > 1:
            return False
        if images[0][1:] and not self._look_alike(*map(np.array, images)).all():
            return False
        one, two = self.problems.text_of[first], self.problems.text_of[second]
        if one == two:
            return True
        left, right = self._shingles_of(one), self._shingles_of(two)
        return len(left & right) >= SIMILAR * len(left | right)

    def _look_alike(self, one: np.ndarray, two: np.ndarray) -> np.ndarray:
        differing = (self.hash[one] ^ self.hash[two]).view(np.uint8).reshape(-1, 8)
        close: np.ndarray = np.unpackbits(differing, axis=1).sum(axis=1) <= HASH_RADIUS
        close &= self.decoded[one] & self.decoded[two]
        at = np.flatnonzero(close)
        apart = np.abs(self.cells[one[at]].astype(np.int16) - self.cells[two[at]])
        close[at] = apart.max(axis=1, initial=0) <= CELL_TOLERANCE
        close |= one == two
        return close

    def _shingles_of(self, text: int) -> frozenset[int]:
        if text not in self._tokens:
            self._tokens[text] = _shingles(_tokens(self.problems.texts[text]))
        return self._tokens[text]


def _neighbours(keys: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pairs with the same key that are at most `WINDOW` apart in the order of keys."""
    order = np.lexsort((second, keys))
    ordered = keys[order]
    pairs = []
    for step in range(1, min(WINDOW, len(keys) - 1) + 1):
        same = np.flatnonzero(ordered[step:] == ordered[:-step])
        if not len(same):
            break
        one, two = order[same], order[same + step]
        pairs.append(np.minimum(one, two) * len(keys) + np.maximum(one, two))
    return np.concatenate(pairs) if pairs else np.empty(0, dtype=np.int64)


def _mixed(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    mixed: np.ndarray = (one ^ (two + _MIX + (one << np.uint64(6)) + (one >> np.uint64(2)))) * _MIX
    mixed ^= mixed >> np.uint64(29)
    return mixed


def _tokens(text: str) -> list[str]:
    return [
        token for token in _TOKEN.findall(unicodedata.normalize("NFC", text)) if token not in _NOISE
    ]


def _shingles(tokens: Sequence[str]) -> frozenset[int]:
    words = [token.casefold() for token in tokens]
    ends = range(max(1, len(words) - 2))
    return frozenset(zlib.crc32("\x1f".join(words[at : at + 3]).encode()) for at in ends)


def _figures(tokens: Sequence[str]) -> int:
    """A number that stands for all numbers, operators and names of points, in any order."""
    counted = Counter(token for token in tokens if _FIGURE.fullmatch(token))
    return zlib.crc32(repr(sorted(counted.items())).encode())


def _signature(shingles: frozenset[int]) -> np.ndarray:
    values = np.fromiter(shingles, dtype=np.uint64, count=len(shingles))
    hashed = (_FACTORS[:, None] * values + _OFFSETS[:, None]) >> np.uint64(32)
    return np.asarray(hashed.min(axis=1), dtype=np.uint32)


_random = np.random.default_rng(0)
_FACTORS = _random.integers(1, 2**63, _PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
_OFFSETS = _random.integers(0, 2**63, _PERMUTATIONS, dtype=np.uint64)
