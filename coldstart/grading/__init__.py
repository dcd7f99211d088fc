"""The one grader: the `accuracy` reward of the GRPO stage and the judge of every evaluation.

It compares a stated answer with a gold answer; it judges no reasoning and asks no model. The rules
are those of the recipe (docs: "Grader semantics"), wider ones only where the data declare them. The
exact rules need the standard library alone. Computer algebra (math-verify) is an optional package,
loaded in worker processes, for the expressions that the exact rules leave open.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import metadata
from multiprocessing import util

from coldstart.grading.case import Case, CaseLike, Grade, Outcome, case
from coldstart.grading.extract import Extraction, extract
from coldstart.grading.match import AnswerType, Gold, UnreadableGold
from coldstart.grading.pool import Grader

__all__ = [
    "VERSION",
    "AnswerType",
    "Case",
    "CaseLike",
    "Extraction",
    "Gold",
    "Grade",
    "Grader",
    "Outcome",
    "UnreadableGold",
    "case",
    "extract",
    "grade",
    "match",
    "version",
]

VERSION = 3
"""Of the rules: counts up whenever one of them changes."""


@functools.cache
def version() -> str:
    """The rules and the computer algebra behind them, as results name them."""
    try:
        algebra = metadata.version("math-verify")
    except metadata.PackageNotFoundError:
        return f"rules {VERSION}"
    return f"rules {VERSION}, math-verify {algebra}"


@functools.cache
def _shared(boxed_only: bool) -> Grader:
    """One grader for single calls: its worker, if any ever starts, ends with the process."""
    grader = Grader(workers=1, boxed_only=boxed_only)
    # A process that multiprocessing has started waits for its own before it runs anything `atexit`.
    util.Finalize(None, grader.close, exitpriority=10)
    return grader


def match(
    span: str,
    gold: str,
    *,
    choices: Sequence[str] | None = None,
    answer_type: str | None = None,
    precision: float | None = None,
    unit: str | None = None,
) -> Outcome:
    """The outcome for an extracted answer. Batches are for a `Grader`.

    Raises:
        ValueError: an unknown answer type, or a precision that counts no decimal places.
        ModuleNotFoundError: the answer needs computer algebra, which is not installed.
    """
    given = case("", gold, choices=choices, answer_type=answer_type, precision=precision, unit=unit)
    return _shared(True).match(span, given.gold)


def grade(
    response: str,
    gold: str,
    *,
    choices: Sequence[str] | None = None,
    answer_type: str | None = None,
    precision: float | None = None,
    unit: str | None = None,
    truncated: bool = False,
    boxed_only: bool = True,
) -> Grade:
    """The grade of one response. Batches are for a `Grader`.

    Raises:
        ValueError: an unknown answer type, or a precision that counts no decimal places.
        ModuleNotFoundError: the answer needs computer algebra, which is not installed.
    """
    given = case(
        response,
        gold,
        choices=choices,
        answer_type=answer_type,
        precision=precision,
        unit=unit,
        truncated=truncated,
    )
    return _shared(boxed_only).grade_all([given])[0]
