"""Notices that nothing is rewarded; rewards that raise or hang are counted in `rewards`."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from coldstart.metrics import series

ZERO_STEPS = 10
"""So many sampling steps in a row without any reward are told."""

Scores = Sequence[Sequence[float]]
"""A row for each completion, with the score of each reward; NaN where a reward gave none."""

log = logging.getLogger(__name__)


class ZeroRewards:
    """Counts the sampling steps in a row in which a reward was zero throughout, and warns."""

    def __init__(self, names: Sequence[str], limit: int = ZERO_STEPS) -> None:
        self._steps = dict.fromkeys(names, 0)
        self._limit = limit

    def saw(self, scores: Scores) -> dict[str, float]:
        """Take the rewards of a sampling step; the metric of each."""
        for place, name in enumerate(self._steps):
            alive = any(row[place] and not math.isnan(row[place]) for row in scores)
            self._steps[name] = 0 if alive else self._steps[name] + 1
        if min(self._steps.values()) == self._limit:
            log.warning(
                "every reward (%s) was 0 for every completion of the last %d sampling steps, so "
                "nothing is learnt: look at the completions for why none is right (length limit, "
                "prompt, box), and at reward_errors_total and reward_timeouts_total",
                ", ".join(self._steps),
                self._limit,
            )
        return {series("reward_zero_steps", name): float(n) for name, n in self._steps.items()}
