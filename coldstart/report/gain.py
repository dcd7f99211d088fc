"""What a gain in accuracy is made of: better kinds of response, or better responses of a kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coldstart.results import BenchmarkResult

OTHER = "other"
_NOTHING = 1e-9


@dataclass(frozen=True)
class KindShare:
    """The responses of one kind, at one checkpoint."""

    name: str
    """The kind, or `other` for those of none."""
    share: float
    """Share of all responses."""
    accuracy: float | None
    """Share of right ones among them; None where there are none."""
    n: int
    """How many there are."""

    @property
    def right(self) -> float:
        """Share of all responses that are of this kind and right."""
        return self.share * (self.accuracy or 0.0)


@dataclass(frozen=True)
class Gain:
    """A difference in accuracy, split in two; the parts add up to it."""

    choice: float
    """From how often each kind is used."""
    skill: float
    """From how often each kind is right."""

    @property
    def total(self) -> float:
        """The difference."""
        return self.choice + self.skill


def kind_shares(result: BenchmarkResult) -> list[KindShare]:
    """The kinds of a result; what belongs to none comes last, so that the shares add up to 1."""
    if not result.kinds:
        return []
    kinds = [
        KindShare(name, kind.share, kind.accuracy, kind.n) for name, kind in result.kinds.items()
    ]
    rest = 1 - math.fsum(kind.share for kind in kinds)
    if rest * result.n < 0.5:  # noqa: PLR2004 - less than one response is rounding
        return kinds
    right = result.accuracy - math.fsum(kind.right for kind in kinds)
    accuracy = min(1.0, max(0.0, right / rest))
    return [*kinds, KindShare(OTHER, rest, accuracy, round(rest * result.n))]


def gain(before: list[KindShare], after: list[KindShare]) -> Gain:
    """The difference between two checkpoints, split symmetrically (Kitagawa, JASA 50, 1955).

    For each kind the change of its share counts with its mean accuracy, and the change of its
    accuracy with its mean share. A kind that one of the checkpoints never used has no accuracy
    there; the other's stands in, so its whole contribution is one of choice.
    """
    first = {kind.name: kind for kind in before}
    second = {kind.name: kind for kind in after}
    choice = skill = 0.0
    for name in first.keys() | second.keys():
        share_1, accuracy_1 = _numbers(first.get(name))
        share_2, accuracy_2 = _numbers(second.get(name))
        known_1 = accuracy_1 if accuracy_1 is not None else accuracy_2 or 0.0
        known_2 = accuracy_2 if accuracy_2 is not None else known_1
        choice += (share_2 - share_1) * (known_1 + known_2) / 2
        skill += (share_1 + share_2) / 2 * (known_2 - known_1)
    return Gain(choice, skill)


def _numbers(kind: KindShare | None) -> tuple[float, float | None]:
    if kind is None or kind.share < _NOTHING:
        return 0.0, None
    return kind.share, kind.accuracy
