r"""What completions are rewarded with, as TRL calls it; how rewards become advantages is TRL's.

`accuracy` and `format` are built in; any other is a user's `module:function`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from coldstart.grading import Grader, Outcome
from coldstart.spec import Conversation, Reward
from coldstart_trainer import conversation as chat
from coldstart_trainer.custom_reward import ERRORS, TIMEOUTS, CustomReward, RewardError

__all__ = ["RewardError", "RewardSet", "ends_with_one_box", "rewards"]

Score = Callable[..., list[float | None]]
"""A reward as TRL calls it: `prompts`, `completions` and every column, by keyword."""

_GRADER_SECONDS = 2.0
_CHECKED_ROWS = 2

# What may follow the box that a response ends with.
_CLOSING = re.compile(r"[\s.$*)\]\\]*")
_BRACE = re.compile(r"\\[{}\\]|[{}]")
_BOX = re.compile(r"\\boxed\s*\{")


@dataclass
class RewardSet:
    """The rewards of a stage; a context manager, because some have processes."""

    functions: list[Score]
    """In the order of the spec; `__name__` is the reward's name."""
    weights: list[float]
    """What each counts in the sum."""
    counters: dict[str, float]
    """`reward_timeouts_total` and `reward_errors_total`: batches that took too long, or raised."""
    custom: list[CustomReward] = field(default_factory=list)
    """The users' functions among them."""
    grader: Grader | None = None
    """What `accuracy` grades with."""

    def check(self, rows: Iterable[Mapping[str, Any]], conversation: Conversation) -> None:
        """Call the users' functions once on the first rows, before anything is trained.

        Raises:
            RewardError: one raises, hangs, or returns what is no score; the message names it.
        """
        sample = [row for row, _ in zip(rows, range(_CHECKED_ROWS), strict=False)]
        for custom in self.custom:
            custom.check(sample, conversation)

    def close(self) -> None:
        """Stop the processes."""
        for custom in self.custom:
            custom.close()
        if self.grader is not None:
            self.grader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def rewards(specs: Sequence[Reward], *, workdir: Path) -> RewardSet:
    """The rewards of a spec.

    Until `check` has passed, the first batch of a user's function is its trial: what it raises is
    an error then. Afterwards a batch that raises or hangs scores 0, and is counted.

    Args:
        specs: names, weights and time limits.
        workdir: the directory that users' modules are imported from.

    Raises:
        RewardError: a name is none, or a function cannot be imported.
    """
    counters = {TIMEOUTS: 0.0, ERRORS: 0.0}
    made = RewardSet([], [spec.weight for spec in specs], counters)
    try:
        for index, spec in enumerate(specs):
            function: Score
            if spec.name == "accuracy":
                made.grader = grader = Grader(timeout=min(_GRADER_SECONDS, spec.timeout_seconds))
                function = _accuracy(grader, counters)
            elif spec.name == "format":
                function = _format
            else:
                custom = CustomReward(spec, f"spec.grpo.rewards[{index}]", workdir, counters)
                made.custom.append(custom)
                function = custom.scores
            made.functions.append(_named(function, spec.name))
    except BaseException:
        made.close()
        raise
    return made


def ends_with_one_box(text: str) -> bool:
    r"""Whether a response holds one `\boxed`, closed, with nothing after it but punctuation."""
    if text.count("\\boxed") != 1:
        return False
    opening = _BOX.search(text)
    if opening is None:
        return False
    depth = 1
    for found in _BRACE.finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(found.group(), 0)
        if depth == 0:
            content = text[opening.end() : found.start()]
            return bool(content.strip()) and bool(_CLOSING.fullmatch(text, found.end()))
    return False


def _named(function: Score, name: str) -> Score:
    """The same function under the reward's name, which TRL logs it by."""

    def reward(*arguments: Any, **columns: Any) -> list[float | None]:
        return function(*arguments, **columns)

    reward.__name__ = name
    return reward


def _format(*, completions: Sequence[Any], **_: Any) -> list[float | None]:
    return [float(ends_with_one_box(chat.completion_text(each))) for each in completions]


def _accuracy(grader: Grader, counters: dict[str, float]) -> Score:
    def accuracy(
        *,
        completions: Sequence[Any],
        answer: Sequence[str],
        choices: Sequence[Sequence[str] | None] | None = None,
        **_: Any,
    ) -> list[float | None]:
        options = choices or [None] * len(answer)
        grades = grader.grade_all(
            (chat.completion_text(completion), gold, {"choices": offered} if offered else None)
            for completion, gold, offered in zip(completions, answer, options, strict=True)
        )
        outcomes = {grade.outcome for grade in grades}
        counters[TIMEOUTS] += Outcome.GRADER_TIMEOUT in outcomes
        counters[ERRORS] += Outcome.GRADER_ERROR in outcomes
        return [grade.reward for grade in grades]

    return accuracy
