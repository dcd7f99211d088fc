"""vLLM's offline engine in processes of its own: requests go in, finished ones come out.

Besides `rollout.engine` the only module that imports vLLM, and only imported where an engine is
made. The engine works on while the next request is prepared and the last responses are graded, and
its memory is given back for certain when its processes have ended.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from typing import Any

from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineDeadError

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.offline.watch import Watch
from coldstart_trainer.termination import TERMINATION

_LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells its processes of each other, which vLLM's would take for theirs."""

_GPUS = "CUDA_VISIBLE_DEVICES"


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
        extension = f"{Watch.__module__}.{Watch.__qualname__}"
        try:
            with _environment(gpus):
                self._llm = LLM(**arguments, worker_extension_cls=extension)
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:500]
            code = ErrorCode.INVALID_ORDER if isinstance(error, ValueError) else ErrorCode.INTERNAL
            raise StageFailure(
                code, f"spec.evaluation.engine: vLLM does not start; the log says why: {reason}"
            ) from error
        self._llm.collective_rpc("coldstart_end_with", args=(os.getpid(),))

    def add(self, name: str, prompt: dict[str, Any], sampling: dict[str, Any]) -> None:
        """Hand in a request."""
        # Nobody reads a response before it is whole, and tokens become text only then.
        parameters = SamplingParams(
            **sampling, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        self._llm.llm_engine.add_request(name, prompt, parameters)

    def step(self) -> list[Any]:
        """The outputs of the requests that have ended since; it waits for the engine's next step.

        Raises:
            StageFailure: the engine is gone (WorkerLost).
        """
        try:
            return list(self._llm.llm_engine.step())
        except EngineDeadError as error:
            if TERMINATION.requested:
                return []  # the signal went to the whole process group
            raise StageFailure(
                ErrorCode.WORKER_LOST, "vLLM's engine has ended; the log says why"
            ) from error

    def abort(self, names: Collection[str]) -> None:
        """Take back requests."""
        with contextlib.suppress(EngineDeadError):
            self._llm.llm_engine.abort_request(list(names))

    def close(self) -> None:
        """End its processes."""
        self._llm.llm_engine.engine_core.shutdown()


@contextlib.contextmanager
def _environment(gpus: Collection[int]) -> Iterator[None]:
    """What the engine's processes find in their environment: their GPUs, and no launcher.

    With TORCHELASTIC_USE_AGENT_STORE they would wait for a store that nobody serves.
    """
    hidden = [name for name in os.environ if name in _LAUNCHERS or name.startswith("TORCHELASTIC_")]
    before = {name: os.environ.pop(name) for name in hidden}
    visible = os.environ.get(_GPUS, "")
    if gpus:
        names = visible.split(",") if visible else [str(gpu) for gpu in range(max(gpus) + 1)]
        os.environ[_GPUS] = ",".join(names[gpu] for gpu in sorted(gpus))
    try:
        yield
    finally:
        os.environ.update(before)
        if visible:
            os.environ[_GPUS] = visible
        elif gpus:
            del os.environ[_GPUS]
