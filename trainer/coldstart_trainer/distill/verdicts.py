"""The grader's verdicts on responses, in a thread, as many at once as a moment brings.

A thread for each response would cost more than the verdict on it. Which responses become rows is
decided in `sampling`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from coldstart.grading import Case, Grader

GATHERING = 0.01
"""Seconds in which responses gather before they are judged."""

TOO_LONG = "too_long"
"""The verdict, beside the grader's, on what is longer than a completion may be."""

Verdict = tuple[str, int]
"""What became of a response, and its tokens."""


@dataclass
class Verdicts:
    """Judges responses, in one event loop."""

    grader: Grader
    count: Callable[[list[str]], list[int]]
    """Tokens of each text; one thread at a time calls it."""
    longest: int
    """Tokens that a completion may have."""
    executor: Executor
    _cases: list[Case] = field(default_factory=list)
    _gathering: asyncio.Future[list[Verdict]] | None = None
    _counting: threading.Lock = field(default_factory=threading.Lock)

    async def of(self, case: Case) -> Verdict:
        """The verdict on a response."""
        if self._gathering is None:
            self._cases = []
            self._gathering = asyncio.ensure_future(self._gathered(self._cases))
        gathering, place = self._gathering, len(self._cases)
        self._cases.append(case)
        # Who is cancelled here waits for others, too.
        return (await asyncio.shield(gathering))[place]

    async def _gathered(self, cases: list[Case]) -> list[Verdict]:
        await asyncio.sleep(GATHERING)
        self._gathering = None
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.executor, self._judged, cases)

    def _judged(self, cases: list[Case]) -> list[Verdict]:
        with self._counting:
            tokens = self.count([case.response for case in cases])
        lengths = list(zip(cases, tokens, strict=True))
        grades = iter(
            self.grader.grade_all(case for case, count in lengths if count <= self.longest)
        )
        return [
            (next(grades).outcome.value if count <= self.longest else TOO_LONG, count)
            for count in tokens
        ]
