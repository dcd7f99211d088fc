"""We-Math's four dimensions (arXiv 2407.01284): why a composite problem is, or is not, solved.

A composite consists of one-step questions and of the question that needs all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Rule = Literal["strict", "loose"]
"""How many one-step questions must be right where the composite is, to count as mastery: all, or
one at least."""

_KEY = re.compile(r"([1-9])steps_([1-9]|multi)")
_COMPOSITE = 2


@dataclass(frozen=True)
class Composite:
    """The answers to one composite: right or wrong."""

    steps: tuple[bool, ...]
    """To its one-step questions."""
    whole: bool
    """To the question that needs all of them."""


@dataclass(frozen=True)
class Dimensions:
    """How many composites are of each dimension."""

    insufficient_knowledge: int
    """IK: the composite and a step are wrong."""
    inadequate_generalization: int
    """IG: the steps are right, the composite is wrong."""
    complete_mastery: int
    """CM: the composite is right, and the steps are."""
    rote_memorization: int
    """RM: the composite is right, but the steps are not."""

    @property
    def n(self) -> int:
        """Composites."""
        return (
            self.insufficient_knowledge
            + self.inadequate_generalization
            + self.complete_mastery
            + self.rote_memorization
        )

    @property
    def score(self) -> float:
        """The authors' score: mastery, and half of inadequate generalization."""
        return (self.complete_mastery + 0.5 * self.inadequate_generalization) / self.n

    @property
    def rote_share(self) -> float:
        """The authors' RM rate: of the composites that are right; 0 where none is."""
        right = self.complete_mastery + self.rote_memorization
        return self.rote_memorization / right if right else 0.0


def composites(answers: Iterable[tuple[str, str, bool]]) -> tuple[list[Composite], int]:
    """Answers by composite: those that are whole, and how many are not.

    Args:
        answers: composite, We-Math's `key` (`2steps_1`, `3steps_multi`), and whether it is right.
    """
    found: dict[str, dict[str, bool]] = {}
    for name, key, right in answers:
        found.setdefault(name, {})[key] = right
    made = [_composite(parts) for parts in found.values()]
    whole = [item for item in made if item]
    return whole, len(made) - len(whole)


def dimensions(found: Sequence[Composite], rule: Rule) -> Dimensions:
    """How many composites are of each dimension.

    Raises:
        ValueError: there are none.
    """
    if not found:
        raise ValueError("there are no whole composites")
    mastered = all if rule == "strict" else any
    right = [item for item in found if item.whole]
    wrong = [item for item in found if not item.whole]
    mastery = sum(mastered(item.steps) for item in right)
    generalization = sum(all(item.steps) for item in wrong)
    return Dimensions(len(wrong) - generalization, generalization, mastery, len(right) - mastery)


def _composite(parts: dict[str, bool]) -> Composite | None:
    keys = [_KEY.fullmatch(key) for key in parts]
    count = next((int(key.group(1)) for key in keys if key), 0)
    steps = [parts.get(f"{count}steps_{number}") for number in range(1, count + 1)]
    whole = parts.get(f"{count}steps_multi")
    if count < _COMPOSITE or whole is None or None in steps:
        return None
    return Composite(tuple(step is True for step in steps), whole)
