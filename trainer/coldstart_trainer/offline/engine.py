"""vLLM's offline engine in processes of its own: requests go in, finished ones come out.

Besides `rollout.engine` the only module that imports vLLM, and only imported where an engine is
made. The engine works on while the next request is prepared and the last responses are graded, and
its memory is given back for certain when its processes have ended.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.offline.surroundings import surroundings
from coldstart_trainer.offline.watch import Watch
from coldstart_trainer.termination import TERMINATION

PAUSE = 0.2
"""Seconds between two looks whether there still is something to wait for."""


class Engine:
    """One engine, started and kept until it is closed."""

    def __init__(self, arguments: dict[str, Any], gpus: Collection[int]) -> None:
        """Start it.

        Args:
            arguments: of vLLM's `LLM`.
            gpus: which of this process's GPUs it gets; none on a CPU.

        Raises:
            StageFailure: vLLM does not start.
        """
        before = set(multiprocessing.active_children())
        extension = f"{Watch.__module__}.{Watch.__qualname__}"
        try:
            with _surrounded(gpus):
                self._llm = LLM(**arguments, worker_extension_cls=extension)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:500]
            code = ErrorCode.INVALID_ORDER if isinstance(error, ValueError) else ErrorCode.INTERNAL
            raise StageFailure(
                code, f"spec.evaluation.engine: vLLM does not start; the log says why: {reason}"
            ) from error
        self._llm.collective_rpc("coldstart_end_with", args=(os.getpid(),))
        self._processes = set(multiprocessing.active_children()) - before
        self._asked: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[list[Any] | EngineDeadError] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True, name="vllm").start()

    def add(self, name: str, prompt: dict[str, Any], sampling: dict[str, Any]) -> None:
        """Hand in a request."""
        # Nobody reads a response before it is whole, and tokens become text only then.
        parameters = SamplingParams(
            **sampling, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        self._llm.llm_engine.add_request(name, prompt, parameters)

    def step(self) -> list[Any]:
        """The outputs of the requests that have ended since; it waits for the engine's next step.

        There are none where the stage was told to end meanwhile.

        Raises:
            StageFailure: the engine is gone (WorkerLost).
        """
        self._asked.put(None)
        while True:
            try:
                found = self._found.get(timeout=PAUSE)
            except queue.Empty:
                # vLLM's own waiting does not end when its process does.
                if TERMINATION.requested:
                    return []
                if not all(process.is_alive() for process in self._processes):
                    raise _gone() from None
                continue
            if not isinstance(found, EngineDeadError):
                return found
            if TERMINATION.requested:
                return []  # the signal went to the whole process group
            raise _gone() from found

    def _work(self) -> None:
        while True:
            self._asked.get()
            try:
                found: list[Any] | EngineDeadError = list(self._llm.llm_engine.step())
            except EngineDeadError as error:
                found = error
            self._found.put(found)

    def close(self) -> None:
        """End its processes."""
        self._llm.llm_engine.engine_core.shutdown()


def _gone() -> StageFailure:
    return StageFailure(ErrorCode.WORKER_LOST, "vLLM's engine has ended; the log says why")


@contextlib.contextmanager
def _surrounded(gpus: Collection[int]) -> Iterator[None]:
    """Processes that are started within find their own environment in place of the stage's."""
    before = dict(os.environ)
    wanted = surroundings(before, gpus)
    changed = [name for name in before.keys() | wanted if before.get(name) != wanted.get(name)]
    try:
        _set(wanted, changed)
        yield
    finally:
        _set(before, changed)


def _set(values: Mapping[str, str], names: Collection[str]) -> None:
    for name in names:
        if name in values:
            os.environ[name] = values[name]
        else:
            os.environ.pop(name, None)
