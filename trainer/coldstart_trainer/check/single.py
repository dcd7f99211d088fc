"""What can be wrong with one row alone, as the stage that takes it would judge it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from coldstart.findings import Kind
from coldstart.grading import Grader, Outcome
from coldstart.spec import Conversation
from coldstart.uses import Use
from coldstart_trainer.admission import is_absent
from coldstart_trainer.check.pictures import LONGEST_RATIO, Look
from coldstart_trainer.check.rows import Row
from coldstart_trainer.conversation import IMAGE_MARK

Fault = tuple[Kind, str]
"""What is wrong, and how in this row."""

_SHOWN_ANSWER = 80


def faults(row: Row, use: Use, looks: Sequence[Look], spec: Conversation) -> Iterator[Fault]:
    """What is wrong with a row and its images, but for its length and its box."""
    if not row.problem.strip():
        yield "empty_problem", ""
    if (marks := row.problem.count(IMAGE_MARK)) and marks != len(looks):
        yield "image_marks", f"{marks} marks, {len(looks)} images"
    if use.target == "answer" and is_absent(row.answer):
        yield "no_answer", "" if row.answer is None else repr(row.answer)
    if use.target == "response" and not (row.response or "").strip():
        yield "no_response", ""
    # One of a kind is enough: rows are counted, not images.
    found: dict[Kind, str] = {}
    for number, item in enumerate(looks):
        for kind, note in _image_faults(item, spec):
            found.setdefault(kind, f"image {number} {note}")
    yield from found.items()


def box_faults(batch: Sequence[Row], grader: Grader) -> Iterator[tuple[Row, Fault]]:
    """Responses without a closed box, or whose box is not the row's own answer.

    The grader is the one that rewards and evaluates. What it cannot decide is not held against
    a response.
    """
    with_response = [row for row in batch if (row.response or "").strip()]
    cases: list[tuple[str, str, dict[str, Any]]] = [
        (row.response or "", row.answer or "", {"choices": row.choices or None})
        for row in with_response
    ]
    for row, grade in zip(with_response, grader.grade_all(cases), strict=True):
        if grade.span is None or not grade.boxed:
            yield row, ("no_box", "the last box is not closed" if grade.detail else "")
        elif grade.outcome is Outcome.WRONG and not is_absent(row.answer):
            box, gold = grade.span[:_SHOWN_ANSWER], (row.answer or "")[:_SHOWN_ANSWER]
            yield row, ("wrong_box", f"box {box!r}, answer {gold!r}")


def _image_faults(item: Look, spec: Conversation) -> Iterator[Fault]:
    if item.wrong:
        yield ("huge_image" if item.huge else "undecodable_image"), item.wrong
        return
    size, pixels = f"{item.width} x {item.height}", item.width * item.height
    if item.ratio > LONGEST_RATIO:
        yield "image_aspect_ratio", f"has {size} pixels"
    elif pixels > spec.max_pixels:
        yield "scaled_down", f"has {size} pixels: its sides to {_sides(spec.max_pixels, pixels)}"
    elif pixels < spec.min_pixels:
        yield "scaled_up", f"has {size} pixels: its sides to {_sides(spec.min_pixels, pixels)}"


def _sides(wanted: int, pixels: int) -> str:
    return f"{math.sqrt(wanted / pixels):.0%}"
