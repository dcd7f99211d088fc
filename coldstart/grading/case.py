"""What goes into a grader and what comes out: cases, outcomes, grades."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from coldstart.grading.extract import Method
from coldstart.grading.match import AnswerType, Gold


class Outcome(StrEnum):
    """What became of a response. Only `correct` earns a reward; the last four are our failures."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    TRUNCATED = "truncated"
    JUDGE_UNCLEAR = "judge_unclear"
    GRADER_TIMEOUT = "grader_timeout"
    GRADER_ERROR = "grader_error"
    GOLD_UNPARSEABLE = "gold_unparseable"


@dataclass(frozen=True, slots=True)
class Grade:
    """The outcome for one response, with the answer that was found in it."""

    outcome: Outcome
    span: str | None = None
    method: Method | None = None
    boxed: bool = False
    detail: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer is right; no other outcome counts."""
        return self.outcome is Outcome.CORRECT

    @property
    def reward(self) -> float:
        """The accuracy reward of the recipe: 1 or 0."""
        return 1.0 if self.correct else 0.0


@dataclass(frozen=True, slots=True)
class Case:
    """A response and the gold answer to it. `truncated`: the generation hit its token limit."""

    response: str
    gold: Gold
    truncated: bool = False


CaseLike = Case | tuple[str, str] | tuple[str, str, Mapping[str, Any] | None]


def case(
    response: str,
    gold: str,
    *,
    choices: Sequence[str] | None = None,
    answer_type: str | None = None,
    precision: float | None = None,
    unit: str | None = None,
    truncated: bool = False,
) -> Case:
    """A case from the loose fields of a dataset row.

    Raises:
        ValueError: an unknown answer type, or a precision that counts no decimal places.
    """
    if precision is not None and precision != int(precision):
        raise ValueError(f"precision: {precision} is no number of decimal places")
    known = Gold(
        str(gold),
        tuple(map(str, choices)) if choices else None,
        cast(AnswerType | None, answer_type),
        None if precision is None else int(precision),
        unit or None,
    )
    return Case(response, known, truncated)


def as_case(given: CaseLike) -> Case:
    """A case from its short form: response, gold and, if any, the keywords of `case()`."""
    if isinstance(given, Case):
        return given
    response, gold, *fields = given
    return case(response, gold, **((fields[0] if fields else None) or {}))
