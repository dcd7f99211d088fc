"""Sample completions for the page: a few of each kind of change, picked by rule, not by looks."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

from coldstart.report.pairing import TRANSITIONS, Transition, transition
from coldstart.report.pictures import Copy, gallery
from coldstart.report.reading import Key, RunRecord, grades, samples
from coldstart.results import Sample

EACH = 3
"""Cases of each transition."""

HEAD_CHARACTERS, TAIL_CHARACTERS = 2800, 1200
"""What is shown of a long response: where it sets out, and where its answer stands."""
PROBLEM_CHARACTERS = 2000
IMAGES = 4
"""Images shown of one problem."""
IMAGE_BYTES = 1_000_000
"""Of all images, before base64."""

_BOX = r"\boxed{"


Place = tuple[str, Key]
"""A benchmark, and a response to one of its problems."""


class Part(NamedTuple):
    """A piece of a response."""

    text: str
    role: Literal["text", "box", "gap"]
    """Plain text, the last box, or a note of what is left out."""


@dataclass(frozen=True)
class Answer:
    """What one checkpoint answered."""

    checkpoint: str
    sample: Sample
    parts: tuple[Part, ...]
    """The response in pieces."""


@dataclass(frozen=True)
class Case:
    """One problem with every checkpoint's answer."""

    benchmark: str
    id: str
    number: int
    """Which of the responses to the problem."""
    problem: str
    gold: str
    choices: tuple[str, ...]
    images: tuple[Copy, ...]
    """Those that are shown."""
    missing_images: int
    """Images that are not on the disk, no images, or too many."""
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class CaseGroup:
    """Cases of one transition."""

    transition: Transition
    count: int
    """How many responses there are of it, shown or not."""
    cases: tuple[Case, ...]


def case_groups(found: RunRecord, checkpoints: tuple[str, ...]) -> list[CaseGroup]:
    """A few cases of each transition between the first and the last of the checkpoints.

    Which ones is decided by the hash of benchmark, problem and sample number, so that nobody
    chooses. With a single checkpoint the transition is from its responses to themselves: right
    or wrong.

    Raises:
        ValueError: responses are missing or damaged, or the checkpoints answered other problems.
    """
    picked: dict[Transition, list[tuple[str, str, Key]]] = {name: [] for name in TRANSITIONS}
    for benchmark in found.benchmarks:
        before = grades(found, checkpoints[0], benchmark)
        after = grades(found, checkpoints[-1], benchmark)
        for key in before.keys() & after.keys():
            place = (benchmark, key)
            picked[transition(before[key], after[key])].append((chance(place), benchmark, key))
    chosen = {name: sorted(keys)[:EACH] for name, keys in picked.items()}
    texts = _texts(found, checkpoints, {item[1:] for keys in chosen.values() for item in keys})
    names = {name for of in texts.values() for item in of.values() for name in item.images[:IMAGES]}
    copies = gallery(found.layout.images, names, IMAGE_BYTES).copies
    return [
        CaseGroup(
            name,
            len(picked[name]),
            tuple(_case(benchmark, texts[benchmark, key], copies) for _, benchmark, key in keys),
        )
        for name, keys in chosen.items()
        if keys or len(checkpoints) > 1
    ]


def chance(place: Place) -> str:
    """Sorts responses so that nobody chooses."""
    benchmark, (problem, number) = place
    return hashlib.sha256(f"{benchmark}\0{problem}\0{number}".encode()).hexdigest()


_Texts = dict[Place, dict[str, Sample]]


def _texts(found: RunRecord, checkpoints: tuple[str, ...], wanted: set[Place]) -> _Texts:
    """The chosen responses by benchmark and key, then by checkpoint."""
    texts: _Texts = {item: {} for item in wanted}
    for checkpoint in checkpoints:
        for benchmark in {benchmark for benchmark, _ in wanted}:
            for sample in samples(found, checkpoint, benchmark):
                place = (benchmark, (sample.id, sample.sample))
                if place in texts:
                    texts[place][checkpoint] = sample
    return texts


def _case(benchmark: str, answers: dict[str, Sample], copies: dict[str, Copy]) -> Case:
    first = next(iter(answers.values()))
    shown = tuple(copies[name] for name in first.images[:IMAGES] if name in copies)
    return Case(
        benchmark=benchmark,
        id=first.id,
        number=first.sample,
        problem=head(first.problem, PROBLEM_CHARACTERS),
        gold=first.gold,
        choices=first.choices,
        images=shown,
        missing_images=len(first.images) - len(shown),
        answers=tuple(
            Answer(name, sample, response_parts(sample.response))
            for name, sample in answers.items()
        ),
    )


def head(text: str, size: int) -> str:
    """The beginning of a text."""
    return text if len(text) <= size else f"{text[:size]}…"


def response_parts(text: str) -> tuple[Part, ...]:
    """A response in pieces, the middle of a long one left out."""
    left_out = len(text) - HEAD_CHARACTERS - TAIL_CHARACTERS
    if left_out <= 0:
        return _boxed(text)
    gap = Part(f"{left_out:,} characters are not shown", "gap")
    return (Part(text[:HEAD_CHARACTERS], "text"), gap, *_boxed(text[-TAIL_CHARACTERS:]))


def _boxed(text: str) -> tuple[Part, ...]:
    """The text before, in and after its last closed box."""
    start = text.rfind(_BOX)
    depth = 0
    for place in range(start, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if text[place] == "}" and depth == 0:
            end = place + 1
            pieces = (
                Part(text[:start], "text"),
                Part(text[start:end], "box"),
                Part(text[end:], "text"),
            )
            return tuple(piece for piece in pieces if piece.text)
    return (Part(text, "text"),)
