"""What has been found so far, counted, with the first cases of each; nothing is looked for here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from coldstart.findings import Example, Finding, Kind, RowShown
from coldstart.uses import Use
from coldstart_trainer.check import pictures, rows
from coldstart_trainer.sources import Source

SHOWN_TEXT = 600
"""Characters of a problem or a response that are shown."""

SHOWN_IMAGES = 2
"""Images of a row that are shown."""

PICTURED = 200
"""Rows that are shown with images: a page of more would be too large."""

_MEANING: dict[Kind, str] = {
    "unreadable": "the data set cannot be read",
    "leakage": "also in training data: their accuracy measures memory",
    "no_answer": "without a gold answer, or with 'None': the stage refuses them",
    "no_response": "without a response: the stage refuses them",
    "empty_problem": "without a problem: the stage refuses them",
    "image_marks": "with another number of <image> marks than images: the stage refuses them",
    "undecodable_image": "with an image that cannot be decoded: the stage refuses them",
    "huge_image": "with an image of more pixels than are ever decoded: scale it down",
    "near_leakage": "nearly the same as training data: look at them",
    "no_box": "with a response without a closed \\boxed{}: it teaches no answer",
    "wrong_box": "with a response whose box is not the row's own answer",
    "other_answer": "with the problem of an earlier one, but another gold answer",
    "duplicates": "equal to an earlier one",
    "near_duplicates": "nearly the same as an earlier one: look at them",
    "image_aspect_ratio": "with an image over 200 times as long as wide: the stage drops them",
    "prompt_too_long": "with a prompt beyond conversation.maxPromptTokens: the stage drops them",
    "response_too_long": "with a response beyond conversation.maxCompletionTokens: the stage "
    "drops them",
    "shared": "with a problem that is in both sets",
    "near_shared": "nearly the same as some of the other set",
    "scaled_down": "with an image above conversation.maxPixels: it is scaled down",
    "scaled_up": "with an image below conversation.minPixels: it is scaled up",
}
"""What each kind of finding means, the worst first."""

_NOTES: frozenset[Kind] = frozenset({"shared", "near_shared", "scaled_down", "scaled_up"})
_MISTAKES: frozenset[Kind] = frozenset(
    {
        "unreadable",
        "leakage",
        "no_answer",
        "no_response",
        "empty_problem",
        "image_marks",
        "undecodable_image",
        "huge_image",
    }
)


@dataclass(frozen=True)
class Opened:
    """A data set that is being checked."""

    use: Use
    source: Source


Place = tuple[Opened, int]
"""A row: its data set, and its number there."""


@dataclass
class _Found:
    rows: int = 0
    first: list[tuple[tuple[Place, ...], str]] = field(default_factory=list)


class Collected:
    """Findings by kind and data sets."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._found: dict[tuple[Kind, tuple[str, ...]], _Found] = {}
        self._unreadable: list[Finding] = []

    def add(self, kind: Kind, places: Sequence[Place], note: str = "") -> None:
        """One more row, the first of the places; the other, if any, is what it repeats."""
        labels = tuple(dict.fromkeys(opened.use.label for opened, _ in places))
        found = self._found.setdefault((kind, labels), _Found())
        found.rows += 1
        if len(found.first) < self._limit:
            found.first.append((tuple(places), note))

    def add_unreadable(self, use: Use, message: str) -> None:
        """A data set that cannot be read."""
        self._unreadable.append(
            Finding(kind="unreadable", level="mistake", datasets=(use.label,), rows=0, text=message)
        )

    def findings(self, *, with_pictures: bool) -> tuple[Finding, ...]:
        """All findings, the worst first."""
        budget = PICTURED if with_pictures else 0
        made = []
        for kind in _MEANING:
            for (found_kind, labels), found in self._found.items():
                if found_kind == kind:
                    examples = list(_examples(found, budget))
                    budget -= sum(bool(row.images) for item in examples for row in item.rows)
                    made.append(_finding(kind, labels, found.rows, tuple(examples)))
        return (*self._unreadable, *made)


def _finding(
    kind: Kind, labels: tuple[str, ...], count: int, examples: tuple[Example, ...]
) -> Finding:
    return Finding(
        kind=kind,
        level="mistake" if kind in _MISTAKES else "note" if kind in _NOTES else "warning",
        datasets=labels,
        rows=count,
        text=_MEANING[kind],
        examples=examples,
    )


def _examples(found: _Found, budget: int) -> Iterator[Example]:
    for places, note in found.first:
        shown = tuple(_shown(place, pictured=budget > 0) for place in places)
        budget -= len(shown)
        yield Example(rows=shown, note=note)


def _shown(place: Place, *, pictured: bool) -> RowShown:
    opened, number = place
    row = rows.one(opened.source, number)
    said = row.response if opened.use.target == "response" else row.answer
    images = row.images[:SHOWN_IMAGES] if pictured else ()
    return RowShown(
        dataset=opened.use.label,
        id=row.id[:SHOWN_TEXT],
        place=opened.source.place(number),
        problem=row.problem[:SHOWN_TEXT],
        said=(said or "")[-SHOWN_TEXT:],
        images=tuple(filter(None, (pictures.small_copy(value) for value in images))),
    )
