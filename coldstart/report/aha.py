"""How often responses reflect, as the page shows it: ratios, words, and examples picked by rule."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from coldstart.lexicon import MAYE, Lexicon, Place
from coldstart.report.reading import RunRecord, samples
from coldstart.results import BenchmarkResult, Sample

EACH = 2
"""Examples of a checkpoint that are right, and that are wrong."""

BEFORE, AFTER = 240, 360
"""Characters around the first word that are shown of a response."""


class Piece(NamedTuple):
    """A part of a response."""

    text: str
    marked: bool
    """Whether it is a word of the list."""


@dataclass(frozen=True)
class Example:
    """A response that reflects, cut to what stands around its first word of the list."""

    benchmark: str
    sample: Sample
    pieces: tuple[Piece, ...]
    before: bool
    """Whether text before the pieces is left out."""
    after: bool
    """Whether text after them is."""
    words: int
    """Words of the list in the whole response."""


@dataclass(frozen=True)
class WordCount:
    """The responses of one checkpoint with a word, over all benchmarks."""

    count: int
    share: float


@dataclass(frozen=True)
class Aha:
    """The section of the page."""

    lists: tuple[str, ...]
    """The lists of words that the results were counted by."""
    results: tuple[BenchmarkResult, ...]
    words: dict[str, dict[str, WordCount]]
    """By word, the most frequent first, then by checkpoint; words that stand nowhere left out."""
    unused: tuple[str, ...]
    """Words that stand in no response."""
    examples: dict[str, tuple[Example, ...]]
    """By checkpoint: right ones, then wrong ones."""

    @property
    def maye(self) -> bool:
        """Whether MAYE's list is all that was counted by."""
        return self.lists == (MAYE,)


def aha(found: RunRecord, problems: list[str]) -> Aha | None:
    """What the results of a run say about reflection; None where there are no results.

    Args:
        found: the run.
        problems: gets a sentence where the responses cannot be read; the numbers are there still.
    """
    results = tuple(found.results.values())
    if not results:
        return None
    examples: dict[str, tuple[Example, ...]] = {}
    try:
        for checkpoint in dict.fromkeys(result.checkpoint for result in results):
            examples[checkpoint] = _examples(found, checkpoint)
    except ValueError as error:
        problems.append(f"No reflecting responses are shown: {error}.")
    words = _words(results)
    return Aha(
        lists=tuple(dict.fromkeys(result.reflection.word_list for result in results)),
        results=results,
        words={word: counts for word, counts in words.items() if counts},
        unused=tuple(word for word, counts in words.items() if not counts),
        examples={checkpoint: shown for checkpoint, shown in examples.items() if shown},
    )


def _words(results: tuple[BenchmarkResult, ...]) -> dict[str, dict[str, WordCount]]:
    responses: Counter[str] = Counter()
    made: dict[str, Counter[str]] = {}
    for result in results:
        responses[result.checkpoint] += result.n
        for word, count in result.reflection.words.items():
            made.setdefault(word, Counter())[result.checkpoint] += count
    ordered = sorted(made.items(), key=lambda item: -item[1].total())
    return {
        word: {
            name: WordCount(count, count / responses[name])
            for name, count in counts.items()
            if count
        }
        for word, counts in ordered
    }


def _examples(found: RunRecord, checkpoint: str) -> tuple[Example, ...]:
    """A few reflecting responses of a checkpoint; a hash decides which, so that nobody chooses."""
    picked: dict[bool, list[tuple[str, Example]]] = {True: [], False: []}
    for benchmark in found.benchmarks:
        result = found.results.get((checkpoint, benchmark))
        if result is None or not result.reflection.reflecting:
            continue
        lexicon = Lexicon(tuple(result.reflection.words))
        for sample in samples(found, checkpoint, benchmark):
            places = tuple(lexicon.places(sample.response))
            if places:
                key = f"{benchmark}\0{sample.id}\0{sample.sample}".encode()
                entry = hashlib.sha256(key).hexdigest(), _example(benchmark, sample, places)
                known = picked[sample.correct]
                picked[sample.correct] = sorted([*known, entry], key=itemgetter(0))[:EACH]
    return tuple(example for shown in picked.values() for _, example in shown)


def _example(benchmark: str, sample: Sample, places: tuple[Place, ...]) -> Example:
    text = sample.response
    start, end = max(0, places[0].start - BEFORE), places[0].end + AFTER
    pieces, at = [], start
    for place in places:
        if place.end > end:
            break
        pieces += [Piece(text[at : place.start], False), Piece(text[place.start : place.end], True)]
        at = place.end
    pieces.append(Piece(text[at:end], False))
    return Example(
        benchmark=benchmark,
        sample=sample,
        pieces=tuple(piece for piece in pieces if piece.text),
        before=start > 0,
        after=end < len(text),
        words=len(places),
    )
