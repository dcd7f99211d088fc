"""How many responses reflect, and the five ratios of MAYE; it finds no words and grades nothing.

The ratios are those of MAYE (arXiv 2504.02587, table 2). A response reflects if a word of the list
stands in it: a habit of wording, and no proof that a thought helped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from coldstart.association import Table


@dataclass(frozen=True, slots=True)
class Counts:
    """A set of responses by whether they reflect and whether they are right."""

    responses: int = 0
    correct: int = 0
    reflecting: int = 0
    reflecting_correct: int = 0

    def ratios(self) -> dict[str, float | None]:
        """The five ratios by name; one without a denominator is None."""
        return {name: _ratio(part, whole) for name, (part, whole) in self.fractions().items()}

    def fractions(self) -> dict[str, tuple[int, int]]:
        """What each of the five ratios divides by what."""
        wrong = self.responses - self.correct
        plain = self.responses - self.reflecting
        return {
            "ratio": (self.reflecting, self.responses),
            "ratio_correct": (self.reflecting_correct, self.correct),
            "ratio_wrong": (self.reflecting - self.reflecting_correct, wrong),
            "accuracy_reflecting": (self.reflecting_correct, self.reflecting),
            "accuracy_not_reflecting": (self.correct - self.reflecting_correct, plain),
        }

    @property
    def table(self) -> Table:
        """The counts as those of two properties: reflecting, and right."""
        return Table(self.responses, self.reflecting, self.correct, self.reflecting_correct)


def counted(judged: Iterable[tuple[bool, bool]]) -> Counts:
    """The counts of responses: of each, whether it reflects and whether it is right."""
    seen = Counter(judged)
    both = seen[True, True]
    return Counts(seen.total(), both + seen[False, True], both + seen[True, False], both)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
