"""A user's reward function, called in a process of its own; what the scores are for is not told.

The process has nothing of torch's state, can be killed when the function hangs, and does not
depend on the main thread.
"""

from __future__ import annotations

import logging
import multiprocessing
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait
from pathlib import Path
from typing import Any

from pebble import ProcessExpired, ProcessPool

from coldstart.spec import Conversation, Reward
from coldstart.status import ErrorCode
from coldstart_trainer import conversation as chat
from coldstart_trainer import reward_worker
from coldstart_trainer.reward_worker import Scored
from coldstart_trainer.termination import TERMINATION

TIMEOUTS, ERRORS = "reward_timeouts_total", "reward_errors_total"
"""What is counted, by its name in the table of metrics."""

_START_SECONDS = 120.0
_LOOK_SECONDS = 0.5
"""How often is looked whether the process was told to end."""

log = logging.getLogger(__name__)


class RewardError(ValueError):
    """A reward that cannot be used, with the error code of the stage's result."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = ErrorCode.REWARD_INVALID


class _GivenUp(Exception):
    """Nobody needs the scores: what is sampled is not learnt from."""


class CustomReward:
    """A user's function, in a process of its own."""

    def __init__(self, spec: Reward, where: str, workdir: Path, counters: dict[str, float]) -> None:
        self.spec, self.where, self.counters = spec, where, counters
        self.tried = False
        self.logged: set[str] = set()
        if ":" not in spec.name:
            raise RewardError(
                f"{where}.name: {spec.name!r} is neither accuracy, format nor module:function"
            )
        self.pool: Any = ProcessPool(
            max_workers=1,
            initializer=reward_worker.prepare,
            initargs=(spec.name, str(workdir)),
            context=multiprocessing.get_context("spawn"),
        )
        try:
            problem = self._wait(reward_worker.import_error, _START_SECONDS, spec.name)
        except (FutureTimeoutError, ProcessExpired, RuntimeError) as error:
            self.close()
            raise RewardError(f"{where}.name: importing {spec.name} failed: {error}") from error
        if problem:
            self.close()
            raise RewardError(
                f"{where}.name: {spec.name} cannot be imported from {workdir}: {problem}"
            )

    def scores(
        self, *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        """The scores of a batch; none for any completion once the process was told to end.

        Raises:
            RewardError: what came back are no scores; or, in the first batch, none came.
        """
        arguments = {
            "prompts": [_without_images(prompt) for prompt in prompts],
            "completions": list(completions),
            **{name: values for name, values in columns.items() if _passes(name, values)},
        }
        scored, counter = self._call(len(completions), arguments)
        if scored.invalid:
            raise RewardError(f"{self.where}: {self.spec.name} {scored.invalid}")
        if counter and not self.tried:
            raise RewardError(f"{self.where}: {self.spec.name} {scored.raised}")
        self.tried = True
        if counter:
            self._count(counter, scored.raised)
            return [0.0] * len(completions)
        return list(scored.scores)

    def check(self, rows: Sequence[Mapping[str, Any]], conversation: Conversation) -> None:
        """Score made-up completions of real rows, right ones and empty ones."""
        doubled = [row for row in rows for _ in range(2)]
        texts = [
            text for row in rows for text in (f"The answer is \\boxed{{{row.get('answer')}}}.", "")
        ]
        columns = {name: [row[name] for row in doubled] for name in (rows[0] if rows else ())}
        self.tried = False
        self.scores(
            prompts=[
                chat.prompt(row["problem"], len(row["images"]), conversation) for row in doubled
            ],
            completions=[[{"role": "assistant", "content": text}] for text in texts],
            completion_ids=[[0]] * len(texts),
            **columns,
        )

    def close(self) -> None:
        """Stop the process."""
        self.pool.stop()
        self.pool.join()

    def _call(self, count: int, arguments: dict[str, Any]) -> tuple[Scored, str]:
        """What the worker says, and the counter that the batch belongs to, if any."""
        seconds = self.spec.timeout_seconds
        try:
            scored = self._wait(reward_worker.score, seconds, self.spec.name, count, arguments)
        except FutureTimeoutError:
            return Scored(raised=f"took longer than timeoutSeconds ({seconds:g})"), TIMEOUTS
        except ProcessExpired as error:
            return Scored(raised=f"ended its process: {error}"), ERRORS
        except _GivenUp:
            return Scored(scores=(None,) * count), ""
        assert isinstance(scored, Scored)
        if scored.raised:
            return Scored(raised=f"raised {scored.raised}"), ERRORS
        return scored, ""

    def _wait(self, task: Callable[..., Any], seconds: float, *arguments: Any) -> Any:
        future = self.pool.schedule(task, args=arguments, timeout=seconds)
        # Pebble's own deadline begins when the worker takes the task. This one covers a worker
        # that never comes up.
        end = time.monotonic() + seconds + _START_SECONDS
        while not wait([future], timeout=_LOOK_SECONDS).done:
            if TERMINATION.requested:
                future.cancel()
                raise _GivenUp
            if time.monotonic() > end:
                raise FutureTimeoutError
        return future.result()

    def _count(self, counter: str, message: str) -> None:
        self.counters[counter] += 1
        if message not in self.logged:
            self.logged.add(message)
            log.warning(
                "%s: %s %s; this batch scores 0 (later ones like it are only counted)",
                self.where,
                self.spec.name,
                message,
            )


def _passes(name: str, values: Any) -> bool:
    """Whether a worker is given a column: no pictures, and nothing of the trainer itself."""
    return name != "images" and isinstance(values, list)


def _without_images(prompt: Any) -> Any:
    """A prompt whose image parts hold no pictures, which are large to send."""
    if isinstance(prompt, str):
        return prompt
    return [
        {**message, "content": [_without_image(part) for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in prompt
    ]


def _without_image(part: Any) -> Any:
    if isinstance(part, dict):
        return {key: value for key, value in part.items() if key != "image"}
    return part
