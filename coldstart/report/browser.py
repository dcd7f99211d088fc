"""The responses of a run as the page's sample browser reads them: an index, and texts in blocks.

What is filtered and shown is decided by the reader; the script that does it is `browser.js`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from markupsafe import Markup

from coldstart.benchmarks import FACETS
from coldstart.lexicon import Lexicon
from coldstart.report.cases import PROBLEM_CHARACTERS, Place, chance, head, response_parts
from coldstart.report.groups import facet_label, in_order
from coldstart.report.pictures import Gallery, gallery
from coldstart.report.reading import RunRecord, grades, samples
from coldstart.results import Sample


@dataclass(frozen=True)
class Room:
    """How much a page holds."""

    responses: int = 5_000
    """Of each checkpoint."""
    image_bytes: int = 16_000_000
    """Of all images, before base64."""


ROOM = Room()
CARRIED = Room(responses=1_000, image_bytes=2_500_000)
"""On a cluster: there a page is fetched through the log of a pod, which a kubelet cuts at 10 MiB
unless it is told otherwise."""

BLOCK = 100
"""Responses of each checkpoint whose texts are packed together, and unpacked when one is shown."""

_ROLES = {"text": 0, "box": 1, "gap": 2}


class Terms:
    """Texts by number, in the order in which they were first seen."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __getitem__(self, text: str) -> int:
        return self.numbers.setdefault(text, len(self.numbers))

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)


@dataclass(frozen=True)
class FacetFilter:
    """What a facet's filter offers."""

    name: str
    label: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Browser:
    """All that the sample browser of a page needs."""

    index: dict[str, Any]
    """What is filtered by, as columns: a number or a text for each response."""
    blocks: tuple[str, ...]
    """Texts, packed: deflated JSON in base64."""
    gallery: Gallery
    """Images, in the order in which the texts number them."""
    facets: tuple[FacetFilter, ...]
    total: int
    """Responses of each checkpoint that there are."""

    @property
    def count(self) -> int:
        """Responses of each checkpoint that the page holds."""
        return len(self.index["cases"]["id"])

    @property
    def outcomes(self) -> list[str]:
        """The outcomes that there are."""
        return list(self.index["outcomes"])

    @property
    def matchers(self) -> list[str]:
        """The two matchers that have graded the responses; empty if there is one."""
        return list(self.index["matchers"])


def browser(found: RunRecord, checkpoints: Sequence[str], room: Room = ROOM) -> Browser:
    """What the page holds of the responses of these checkpoints.

    Where it has no room for all, a hash of benchmark, problem and sample number decides.

    Raises:
        ValueError: responses are missing or damaged.
    """
    places = _places(found, checkpoints)
    kept = _drawn(places, room.responses)
    answers = [_answers(found, checkpoint, kept) for checkpoint in checkpoints]
    first = answers[0]
    names = {name for row in first for name in row.images}
    pictures = gallery(found.layout.images, names, room.image_bytes)
    numbers = {name: number for number, name in enumerate(pictures.copies)}
    texts = [
        [_problem(rows[0], numbers), [[row.parts, row.extracted] for row in rows]]
        for rows in zip(*answers, strict=True)
    ]
    facets = _facet_filters(first)
    return Browser(
        index=_index(found, checkpoints, kept, answers, facets),
        blocks=tuple(packed(texts[at : at + BLOCK]) for at in range(0, len(texts), BLOCK)),
        gallery=pictures,
        facets=facets,
        total=len(places),
    )


def script() -> Markup:
    """The page's script; it is ours, so it needs no escaping."""
    text = (resources.files("coldstart.report") / "templates" / "browser.js").read_text("utf-8")
    return Markup(text)  # noqa: S704 - a file of this package


def script_hash() -> str:
    """What the page's policy calls its script, so that no other one runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script().encode()).digest()).decode()


def packed(document: Any) -> str:
    """A document as deflated JSON in base64, which no text can break out of."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("utf-8", "replace"))).decode()


def _places(found: RunRecord, checkpoints: Sequence[str]) -> list[Place]:
    """The responses that all checkpoints have given, in the order of the first one."""
    made = []
    for benchmark in found.benchmarks:
        keys = [grades(found, checkpoint, benchmark).keys() for checkpoint in checkpoints]
        shared = set.intersection(*map(set, keys))
        made += [(benchmark, key) for key in keys[0] if key in shared]
    return made


def _drawn(places: list[Place], limit: int) -> dict[Place, int]:
    """The number of each response that the page holds."""
    kept = set(sorted(places, key=chance)[:limit])
    return {place: number for number, place in enumerate(p for p in places if p in kept)}


@dataclass(frozen=True, slots=True)
class _Row:
    """A response without what the page does not show."""

    problem: str
    gold: str
    choices: tuple[str, ...]
    images: tuple[str, ...]
    facets: dict[str, str]
    parts: list[tuple[str, int]]
    extracted: str | None
    outcome: str
    other: tuple[str, str] | None
    """Another matcher, and its outcome."""
    matcher: str
    tokens: int
    truncated: bool
    words: tuple[str, ...]


def _answers(found: RunRecord, checkpoint: str, kept: dict[Place, int]) -> list[_Row]:
    """The responses of a checkpoint, by their numbers."""
    rows: dict[int, _Row] = {}
    for benchmark in found.benchmarks:
        # The words that the result counted, so that the page tells one story.
        lexicon = Lexicon(tuple(found.results[checkpoint, benchmark].reflection.words))
        for sample in samples(found, checkpoint, benchmark):
            number = kept.get((benchmark, (sample.id, sample.sample)))
            if number is not None:
                rows[number] = _row(sample, lexicon)
    return [rows[number] for number in range(len(kept))]


def _row(sample: Sample, lexicon: Lexicon) -> _Row:
    return _Row(
        problem=head(sample.problem, PROBLEM_CHARACTERS),
        gold=head(sample.gold, 200),
        choices=tuple(head(choice, 200) for choice in sample.choices),
        images=sample.images,
        facets=sample.facets,
        parts=[(part.text, _ROLES[part.role]) for part in response_parts(sample.response)],
        extracted=None if sample.extracted is None else head(sample.extracted, 120),
        outcome=sample.outcome,
        other=next(iter(sample.other_outcomes.items()), None),
        matcher=sample.matcher,
        tokens=sample.tokens,
        truncated=sample.truncated,
        words=tuple(lexicon.found(sample.response)),
    )


def _problem(row: _Row, numbers: dict[str, int]) -> list[Any]:
    images = [numbers[name] for name in row.images if name in numbers]
    return [row.problem, row.gold, row.choices, images, len(row.images) - len(images)]


def _index(
    found: RunRecord,
    checkpoints: Sequence[str],
    kept: dict[Place, int],
    answers: list[list[_Row]],
    facets: tuple[FacetFilter, ...],
) -> dict[str, Any]:
    outcomes, words = Terms(), Terms()
    benchmarks = list(found.benchmarks)
    columns = [_columns(rows, outcomes, words) for rows in answers]
    return {
        "block": BLOCK,
        "benchmarks": benchmarks,
        "checkpoints": [[name, found.label(name)] for name in checkpoints],
        "facets": [[facet.name, facet.values] for facet in facets],
        "cases": {
            "benchmark": [benchmarks.index(benchmark) for benchmark, _ in kept],
            "id": [key[0] for _, key in kept],
            "number": [key[1] for _, key in kept],
            "facets": [_facet_column(facet, answers[0]) for facet in facets],
        },
        "answers": columns,
        "matchers": _matchers(answers),
        "outcomes": list(outcomes),
        "words": list(words),
    }


def _matchers(answers: list[list[_Row]]) -> list[str]:
    pairs = {(row.matcher, row.other[0]) for rows in answers for row in rows if row.other}
    if len(pairs) > 1:
        return ["the first", "the second"]
    return [name for pair in pairs for name in pair]


def _columns(rows: list[_Row], outcomes: Terms, words: Terms) -> dict[str, list[Any]]:
    return {
        "outcome": [outcomes[row.outcome] for row in rows],
        "other": [-1 if row.other is None else outcomes[row.other[1]] for row in rows],
        "tokens": [row.tokens for row in rows],
        "truncated": [int(row.truncated) for row in rows],
        "words": [[words[word] for word in row.words] for row in rows],
    }


def _facet_filters(rows: list[_Row]) -> tuple[FacetFilter, ...]:
    """The facets of more than one value."""
    values: dict[str, Counter[str]] = {name: Counter() for name in FACETS}
    for row in rows:
        for name in FACETS:
            if name in row.facets:
                values[name][row.facets[name]] += 1
    return tuple(
        FacetFilter(name, facet_label(name), tuple(sorted(counts, key=in_order)))
        for name, counts in values.items()
        if len(counts) > 1
    )


def _facet_column(facet: FacetFilter, rows: list[_Row]) -> list[int]:
    numbers = {value: number for number, value in enumerate(facet.values)}
    return [numbers.get(row.facets.get(facet.name, ""), -1) for row in rows]
