"""Grades whole batches of responses, with a deadline for each; the rules themselves are in `match`.

The exact rules run here, in the caller's thread. Only a question of computer algebra goes to a
worker process, which is killed and replaced at its deadline: math-verify's own timeouts are
signals, which work in no thread but the main one and cancel the alarms of others. Of a large batch,
the workers answer the first questions while the rest is read; they take many at a time, and where
one of these is late or fails, each is asked again for itself.

Workers are spawned, never forked, because the caller may hold a GPU. A spawned worker imports the
main module again unless that was started with `python -m`: a script keeps its work, and its imports
of torch, under `if __name__ == "__main__":`.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import importlib.util
import multiprocessing
import os
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

from coldstart.grading.case import Case, CaseLike, Grade, Outcome, as_case
from coldstart.grading.extract import Extraction, extract
from coldstart.grading.match import MAX_SPAN, Gold, UnreadableGold, decide, lists_several
from coldstart.grading.symbolic import Question, Verdict, prepare_worker, verdicts

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# Spawning workers and loading sympy; afterwards only the deadline of each question counts.
START_SECONDS: Final = 60.0
RESTART_SECONDS: Final = 5.0
CACHE_SIZE: Final = 50_000
# Pebble looks for late workers this often; the deadline is set so much earlier.
PEBBLE_TICK: Final = 0.2
# Cases that are read before their questions are asked, and questions that a worker takes at once.
SLICE: Final = 1_000
CHUNK: Final = 16
INSTALL: Final = "pip install 'coldstart-operator[trainer]'"


_OUTCOMES: Final[dict[Verdict, Outcome]] = {
    "equal": Outcome.CORRECT,
    "different": Outcome.WRONG,
    "gold_unparseable": Outcome.GOLD_UNPARSEABLE,
}


def _free_cores() -> int:
    """The cores that this process may use, shared out among those that torchrun has started."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class _Cache(Generic[Key, Value]):
    """The latest entries, for any number of threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._entries: OrderedDict[Key, Value] = OrderedDict()
        self._lock = threading.Lock()

    def recall(self, key: Key) -> Value | None:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key]

    def keep(self, key: Key, value: Value) -> None:
        with self._lock:
            self._entries[key] = value
            self._entries.move_to_end(key)
            if len(self._entries) > self._size:
                self._entries.popitem(last=False)


class Grader:
    """A context manager that grades batches from any thread and never hangs.

    With `boxed_only` (the reward) an answer outside a box does not count. `counts` sums up the
    outcomes of all batches. Workers start with the first question that needs them.

    Raises:
        ValueError: `timeout` or `workers` is not positive.
        ModuleNotFoundError: a question needs math-verify or pebble, which are not installed.
        RuntimeError: no worker comes up, for example in a script without a main guard.
    """

    def __init__(
        self, timeout: float = 2.0, workers: int | None = None, *, boxed_only: bool = True
    ) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout: {timeout} seconds; it must be greater than 0")
        if workers is not None and workers < 1:
            raise ValueError(f"workers: {workers}; it must be at least 1")
        self.timeout = timeout
        self.workers = workers or _free_cores()
        self.boxed_only = boxed_only
        self.counts: Counter[Outcome] = Counter()
        self._known: _Cache[tuple[str, Gold], Outcome | Question] = _Cache(CACHE_SIZE)
        self._answers: _Cache[Question, Outcome] = _Cache(CACHE_SIZE)
        self._pool: Any = None
        self._proven = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops the workers; a later batch starts new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.stop()
            pool.join()

    def grade_all(self, cases: Iterable[CaseLike]) -> list[Grade]:
        """The grades of `cases`, in their order.

        A case is a `Case` or a tuple of response, gold and, if any, a mapping with the keywords of
        `case()`.
        """
        batch = [as_case(each) for each in cases]
        found: list[Extraction] = []
        decided: list[Outcome | Question] = []
        answers: dict[Question, Outcome] = {}
        with concurrent.futures.ThreadPoolExecutor() as threads:
            asked = []
            for start in range(0, len(batch), SLICE):
                part = batch[start : start + SLICE]
                stated = [self._extracted(each) for each in part]
                decisions = [self._decided(*each) for each in zip(part, stated, strict=True)]
                questions = {each for each in decisions if isinstance(each, Question)}
                if questions and len(batch) > SLICE:
                    asked.append(threads.submit(self._answered, questions))
                elif questions:
                    answers = self._answered(questions)
                found += stated
                decided += decisions
            for future in asked:
                answers |= future.result()
        outcomes = [answers[each] if isinstance(each, Question) else each for each in decided]
        with self._lock:
            self.counts.update(outcomes)
        return [
            Grade(outcome, stated.span, stated.method, stated.boxed, stated.flag)
            for outcome, stated in zip(outcomes, found, strict=True)
        ]

    def match(self, span: str, gold: Gold) -> Outcome:
        """The outcome for an answer that is already extracted."""
        decision = self._compared(span, gold)
        return self._answered({decision})[decision] if isinstance(decision, Question) else decision

    def _extracted(self, given: Case) -> Extraction:
        lettered = given.gold.choices is not None or given.gold.answer_type == "choice"
        return extract(given.response, boxed_only=self.boxed_only, lettered=lettered)

    def _decided(self, given: Case, stated: Extraction) -> Outcome | Question:
        try:
            several = stated.joined is not None and lists_several(given.gold)
        except UnreadableGold:
            return Outcome.GOLD_UNPARSEABLE
        if stated.span is None:
            cut = given.truncated or stated.flag == "unclosed_reasoning"
            return Outcome.TRUNCATED if cut else Outcome.NO_ANSWER
        # The last box wins; in an evaluation, boxes that stand side by side are one hedged answer.
        whole = stated.joined if stated.joined and (several or not self.boxed_only) else stated.span
        return self._compared(whole, given.gold)

    def _compared(self, span: str, gold: Gold) -> Outcome | Question:
        key = (span, gold)
        known = self._known.recall(key)
        if known is not None:
            return known
        try:
            decision = decide(span, gold)
        except UnreadableGold:
            return Outcome.GOLD_UNPARSEABLE
        if isinstance(decision, Question):
            outcome: Outcome | Question = decision
        else:
            outcome = Outcome.CORRECT if decision else Outcome.WRONG
        if len(span) <= MAX_SPAN:
            self._known.keep(key, outcome)
        return outcome

    def _answered(self, questions: set[Question]) -> dict[Question, Outcome]:
        answers = {}
        for question in questions:
            known = self._answers.recall(question)
            if known is not None:
                answers[question] = known
        asked = [question for question in questions if question not in answers]
        if asked:
            answers.update(self._ask(asked))
        return answers

    def _ask(self, questions: Sequence[Question]) -> dict[Question, Outcome]:
        """Answers every question; a pool that broke down is replaced once.

        Raises:
            RuntimeError: no worker has ever come up, which is a fault of the set-up.
        """
        answers: dict[Question, Outcome] = {}
        left = list(questions)
        size = min(CHUNK, len(left) // (4 * self.workers))
        for most in (size, 1, 1) if size > 1 else (1, 1):
            groups = [tuple(left[at : at + most]) for at in range(0, len(left), most)]
            found, broken = self._asked_once(groups)
            answers.update(found)
            left = [question for question in left if question not in answers]
            if broken:
                self.close()
            if not left:
                return answers
        if not self._proven:
            raise RuntimeError(
                "no grading worker starts: a script that grades keeps its work under "
                'if __name__ == "__main__": because each worker imports it again'
            )
        return answers | dict.fromkeys(left, Outcome.GRADER_ERROR)

    def _asked_once(
        self, groups: Sequence[tuple[Question, ...]]
    ) -> tuple[dict[Question, Outcome], bool]:
        """The answers of one pool, and whether it broke down; a group has all of its or none."""
        pool = self._started()
        limit = max(PEBBLE_TICK, self.timeout - PEBBLE_TICK)
        # Pebble's deadline runs once a worker has taken the question. This one covers a pool whose
        # workers hang before that.
        rounds = -(-len(groups) // self.workers)
        deadline = time.monotonic() + START_SECONDS + rounds * (self.timeout + RESTART_SECONDS)
        answers: dict[Question, Outcome] = {}
        try:
            futures = {
                each: pool.schedule(verdicts, args=(each,), timeout=limit * (1 + len(each) // 4))
                for each in groups
            }
        except RuntimeError:  # the pool broke down while it was idle
            return {}, True
        for group, future in futures.items():
            try:
                found = self._outcomes(future, deadline)
            except BrokenProcessPool:
                return answers, True
            if not isinstance(found, Outcome):
                self._proven = True
                answers.update(zip(group, found, strict=True))
                for question, outcome in zip(group, found, strict=True):
                    self._answers.keep(question, outcome)
            elif len(group) == 1:
                answers[group[0]] = found
        return answers, time.monotonic() > deadline

    def _outcomes(self, future: Any, deadline: float) -> list[Outcome] | Outcome:
        """The outcomes of a group, or what became of all of it."""
        try:
            found: list[Verdict] = future.result(timeout=max(0.0, deadline - time.monotonic()))
        except (TimeoutError, concurrent.futures.TimeoutError):
            future.cancel()
            return Outcome.GRADER_TIMEOUT
        except BrokenProcessPool:
            raise
        # The boundary of a worker: whatever computer algebra raises on model text, or a dead
        # worker, is counted as our error and must not end the training.
        except Exception:  # noqa: BLE001
            return Outcome.GRADER_ERROR
        return [_OUTCOMES[each] for each in found]

    def _started(self) -> Any:
        with self._lock:
            if self._pool is None:
                for module in ("math_verify", "pebble"):
                    if importlib.util.find_spec(module) is None:
                        raise ModuleNotFoundError(
                            f"computer algebra needs {module}, which is missing: {INSTALL}",
                            name=module,
                        )
                self._pool = importlib.import_module("pebble").ProcessPool(
                    max_workers=self.workers,
                    max_tasks=2_000,
                    initializer=prepare_worker,
                    context=multiprocessing.get_context("spawn"),
                )
            return self._pool
