"""Where two matchers agree about the same responses, as the page shows it; nothing is graded."""

from __future__ import annotations

from dataclasses import dataclass

from coldstart.report.reading import RunRecord
from coldstart.results import Agreement, BenchmarkResult


@dataclass(frozen=True)
class Confusion:
    """The verdicts of two matchers on one checkpoint's responses to one benchmark."""

    result: BenchmarkResult
    """What the first of them, which counts, says."""
    agreement: Agreement
    """With the second."""

    @property
    def pair(self) -> tuple[str, str]:
        """The two."""
        return self.result.matcher, self.agreement.matcher

    @property
    def cells(self) -> tuple[int, int, int, int]:
        """Responses that both call right, only the first, only the second, neither."""
        count = self.agreement.count
        return (
            count(own=True, other=True),
            count(own=True, other=False),
            count(own=False, other=True),
            count(own=False, other=False),
        )

    @property
    def agreed(self) -> float:
        """The share of responses on which they agree."""
        both, _, _, neither = self.cells
        return (both + neither) / self.agreement.n

    @property
    def kappa(self) -> float | None:
        """Cohen's kappa: agreement beyond chance; None where chance alone agrees always."""
        both, first, second, _ = self.cells
        a, b = (both + first) / self.agreement.n, (both + second) / self.agreement.n
        by_chance = a * b + (1 - a) * (1 - b)
        return None if by_chance == 1 else (self.agreed - by_chance) / (1 - by_chance)

    @property
    def accuracies(self) -> tuple[float, float]:
        """What share each of the two calls right."""
        both, first, second, _ = self.cells
        return (both + first) / self.agreement.n, (both + second) / self.agreement.n

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcomes that the second matcher gives, the frequent ones first."""
        totals: dict[str, int] = {}
        for row in self.agreement.outcomes.values():
            for outcome, count in row.items():
                totals[outcome] = totals.get(outcome, 0) + count
        return tuple(sorted(totals, key=lambda outcome: -totals[outcome]))


def confusions(found: RunRecord) -> list[Confusion]:
    """Every two matchers that have graded the same responses, by benchmark, then by checkpoint."""
    return [
        Confusion(result, agreement)
        for benchmark in found.benchmarks
        for checkpoint in found.checkpoints
        if (result := found.results.get((checkpoint, benchmark)))
        for agreement in result.agreements
        if agreement.n
    ]
