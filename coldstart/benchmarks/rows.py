r"""Released rows as problems: question with its options, gold answer, and what it is one of.

Options are put below the question as `(A) …`, where the question does not hold them already. Hints
on the form of the answer, which the authors' own prompts have, are left to the conversation spec.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coldstart.benchmarks.published import Schema
from coldstart.grading.match import MAX_PRECISION

FACETS = ("subject", "level", "category", "question_type", "problem_version", "step", "concept")
"""What results are broken down by."""

LETTERS = "ABCDEFGH"

_STEPS = {"2steps_multi": "S2", "3steps_multi": "S3"}
"""How many steps a question of We-Math takes, as its authors call it; the others take one."""

_MARKER = re.compile(r"[ \t]*<image\d*>[ \t]*")
# "A.", "A:", "(A)", in Chinese punctuation, too, at the beginning or after what ends an option.
_LABEL = (
    "(?:^|[\\s;\uff1b,(\uff08]){}\\s*"
    "(?:[)\uff09]\\s*[.\uff0e:\uff1a\u3001]?|[.\uff0e:\uff1a\u3001])\\s*"
)
_LABELS = [re.compile(_LABEL.format(letter)) for letter in LETTERS]

# Two gold answers of MathVerse went through a Chinese code page, which made this of a degree sign.
_BROKEN_DEGREE = "\u63b3"


class RowError(ValueError):
    """A row that lacks what its schema promises; the message starts with the column."""


@dataclass(frozen=True)
class Problem:
    """One released row by our names."""

    id: str
    problem: str
    answer: str
    choices: tuple[str, ...] = ()
    answer_type: str | None = None
    """The grader's name for what the answer is."""
    precision: int | None = None
    """Decimal places that count."""
    unit: str | None = None
    """What the number is of."""
    cluster: str | None = None
    """Names the problems that belong together, and are no independent evidence."""
    facets: dict[str, str] = field(default_factory=dict)
    """By the names of `FACETS`."""


def problem(schema: Schema, row: Mapping[str, Any]) -> Problem:
    """A released row by our names.

    Raises:
        RowError: choices are missing where the row says that it has them, or a column holds
            something of another type than it was released with.
    """
    try:
        return _READERS[schema](row)
    except (AttributeError, TypeError) as error:
        raise RowError(f"a column is of another type than it was released with: {error}") from error


def options(text: str) -> tuple[str, ...]:
    """The options of a text that labels them A, B, C …; empty if it does not, or skips a letter."""
    marks: list[re.Match[str]] = []
    for label in _LABELS:
        found = label.search(text, marks[-1].end() if marks else 0)
        if found is None:
            break
        marks.append(found)
    behind = marks[-1].end() if marks else 0
    if any(label.search(text, behind) for label in _LABELS[len(marks) + 1 :]):
        return ()
    starts = [mark.end() for mark in marks]
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    # Without a mark there is no start, but still an end.
    found_texts = [
        text[start:end].strip(" \t\n;\uff1b,") for start, end in zip(starts, ends, strict=False)
    ]
    return tuple(found_texts) if len(found_texts) > 1 and all(found_texts) else ()


def _mathvista(row: Mapping[str, Any]) -> Problem:
    choices = _texts(row["choices"])
    chosen = row["question_type"] == "multi_choice"
    if chosen and not choices:
        raise RowError("choices: are missing, but question_type is 'multi_choice'")
    unit = _text(row.get("unit"))
    question = _text(row["question"]) + (f" (Unit: {unit})" if unit else "")
    kind = {"text": "text", "integer": "integer", "float": "float", "list": "list"}
    declared = None if chosen else kind.get(_text(row["answer_type"]))
    metadata = row.get("metadata") or {}
    return Problem(
        id=_text(row["pid"]),
        problem=_asked(question, choices if chosen else ()),
        answer=_text(row["answer"]),
        choices=choices if chosen else (),
        answer_type=declared,
        precision=_precision(row) if declared == "float" else None,
        unit=unit or None,
        facets=_facets(
            subject=metadata.get("task"),
            level=metadata.get("grade"),
            category=metadata.get("category"),
            question_type=row["question_type"],
        ),
    )


def _precision(row: Mapping[str, Any]) -> int | None:
    """How many decimal places count."""
    given = row.get("precision")
    if given is None:
        return None
    try:
        places = int(given)
    except (TypeError, ValueError, OverflowError) as error:
        raise RowError(f"precision: {given!r:.80} is no number of decimal places") from error
    if not 0 <= places <= MAX_PRECISION:
        raise RowError(f"precision: {places} decimal places; from 0 to {MAX_PRECISION} may count")
    return places


def _mathverse(row: Mapping[str, Any]) -> Problem:
    question = _text(row["question"])
    whole = _text(row.get("question_for_eval")) or question
    listed = whole.rpartition("Choices:")[2] if "Choices:" in whole else ""
    metadata = row.get("metadata") or {}
    return Problem(
        id=_text(row["sample_index"]),
        # The question of the version Vision Only stands in its picture.
        problem=_unmarked(question) or "Answer the question that is shown in the image.",
        answer=_text(row["answer"]).replace(_BROKEN_DEGREE, "\N{DEGREE SIGN}"),
        choices=options(listed),
        cluster=_text(row["problem_index"]),
        facets=_facets(
            subject=metadata.get("subject"),
            category=metadata.get("subfield"),
            question_type=row.get("question_type"),
            problem_version=row["problem_version"],
        ),
    )


def _mathvision(row: Mapping[str, Any]) -> Problem:
    given = _texts(row["options"])
    # Options that are pictures are told by their letters.
    choices = tuple(_unmarked(text) or LETTERS[at] for at, text in enumerate(given[: len(LETTERS)]))
    return Problem(
        id=_text(row["id"]),
        problem=_asked(_unmarked(_text(row["question"])), choices),
        answer=_text(row["answer"]),
        choices=choices,
        facets=_facets(
            subject=row.get("subject"),
            level=row.get("level"),
            question_type="multi_choice" if choices else "free_form",
        ),
    )


def _wemath(row: Mapping[str, Any]) -> Problem:
    listed = _text(row["option"])
    if not listed:
        raise RowError("option: is empty, but every question of We-Math has options")
    choices = options(listed)
    question = _unmarked(_text(row["question"]))
    key, composite = _text(row["key"]), _text(row["ID"])
    steps = key.partition("_")[0]
    return Problem(
        id=f"{composite}/{key}",
        problem=_asked(question, choices) if choices else f"{question}\nChoices:\n{listed}",
        answer=_text(row["answer"]),
        choices=choices,
        # Two-step and three-step composites are numbered apart.
        cluster=f"{steps}/{composite}",
        facets=_facets(level=_STEPS.get(key, "S1"), step=key, concept=row.get("knowledge concept")),
    )


def _geometry3k(row: Mapping[str, Any]) -> Problem:
    # It has options, too, but this release asks for the value.
    return Problem(id="", problem=_text(row["problem"]), answer=_text(row["answer"]))


_READERS: dict[Schema, Callable[[Mapping[str, Any]], Problem]] = {
    "mathvista": _mathvista,
    "mathverse": _mathverse,
    "mathvision": _mathvision,
    "wemath": _wemath,
    "geometry3k": _geometry3k,
}


def _asked(question: str, choices: Sequence[str]) -> str:
    if not choices:
        return question
    if tuple(choices) == tuple(LETTERS[: len(choices)]):
        return f"{question}\nChoices: {', '.join(choices)}"
    lines = [f"({LETTERS[at]}) {text}" for at, text in enumerate(choices[: len(LETTERS)])]
    return "\n".join([question, "Choices:", *lines])


def _unmarked(text: str) -> str:
    """A text without its image marks: there is one picture, and it comes before the question."""
    return _MARKER.sub(" ", text).strip()


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip(" \n\r\t")


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(_text(value) for value in (() if values is None else values))


def _facets(**found: Any) -> dict[str, str]:
    return {name: _text(value) for name, value in found.items() if _text(value)}
