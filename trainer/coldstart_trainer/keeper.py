"""When a stage's checkpoints are written and sealed; what is in them, the Trainer decides."""

from __future__ import annotations

import json
import time
from collections.abc import MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState

from coldstart.files import write_atomic
from coldstart.stage import MANIFEST, DatasetEntry
from coldstart_trainer import checkpoint
from coldstart_trainer.generators import Generators
from coldstart_trainer.training import TrainingStage


@dataclass(frozen=True)
class Moment:
    """What sampling changes beside the weights, as it was when an update ended."""

    step: int
    generators: Generators
    tokens: int
    counters: dict[str, float]


class Keeper:
    """Saves a Trainer's checkpoints so that each is whole or absent.

    A checkpoint is hashed and sealed by a thread while training goes on: of the optimizer states
    of a large model that takes minutes. Until then it has no manifest, so it is torn for whoever
    looks at it, and the one before it is still there.
    """

    def __init__(
        self,
        stage: TrainingStage,
        datasets: tuple[DatasetEntry, ...],
        steps: int,
        counters: MutableMapping[str, float] | None = None,
    ) -> None:
        self.stage = stage
        self.origin = checkpoint.Origin(stage.order, stage.source, datasets)
        self.steps = steps
        self.counters = counters if counters is not None else {}
        """What this process counts, by series; a resumed attempt goes on counting."""
        self.saved = 0
        """The update of the newest checkpoint, or of the one that was resumed from."""
        self._moment: Moment | None = None
        self._sealer = ThreadPoolExecutor(1, "sealer")
        self._sealing: Future[None] | None = None

    def begin(self, step: int) -> None:
        """Training begins, after so many updates."""
        self.saved = step

    def opened(self, step: int) -> Path:
        """The directory of a checkpoint that is about to be written; it has no manifest yet."""
        self.stage.progress.write("save", step, self.steps)
        self.settle()
        directory = self.stage.layout.checkpoints / f"{checkpoint.PREFIX}{step}"
        if PartialState().is_main_process:
            if directory.is_symlink():
                checkpoint.set_aside(directory, "damaged")
            (directory / MANIFEST).unlink(missing_ok=True)
        return directory

    def closed(self, directory: Path, step: int, metrics: dict[str, float]) -> None:
        """Have it sealed when every process has written its part, and removed what is too old."""
        if self.counters:
            document = json.dumps(dict(self.counters)).encode()
            write_atomic(_counters_file(directory), document)
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            self._sealing = self._sealer.submit(self._seal, directory, step, metrics)
        self.saved = step

    def settle(self, *, wait: bool = True) -> None:
        """Wait for the checkpoint that is being sealed; or only see whether that has failed.

        Raises:
            CheckpointError, OSError: it could not be sealed.
        """
        if self._sealing is not None and (wait or self._sealing.done()):
            sealing, self._sealing = self._sealing, None
            sealing.result()
            self.stage.progress.meter.put({"checkpoint_timestamp_seconds": time.time()})

    def take(self, state: Any) -> None:
        """Remember the moment after an update."""
        self._moment = Moment(
            state.global_step,
            Generators.taken(),
            state.num_input_tokens_seen,
            dict(self.counters),
        )

    def rewind(self, state: Any) -> bool:
        """Go back to the moment after the last update; whether there is anything to save of it."""
        if self._moment is None or self.saved == state.global_step:
            return False
        assert self._moment.step == state.global_step
        self._moment.generators.restore()
        state.num_input_tokens_seen = self._moment.tokens
        self.counters.update(self._moment.counters)
        return True

    def restore_counters(self, directory: Path) -> None:
        """Go on counting where a checkpoint left off."""
        path = _counters_file(directory)
        if path.is_file():
            self.counters.update(json.loads(path.read_bytes()))

    def _seal(self, directory: Path, step: int, metrics: dict[str, float]) -> None:
        checkpoint.seal(directory, self.origin, step, metrics)
        checkpoint.rotate(directory.parent, self.stage.spec.keep_checkpoints)


def _counters_file(directory: Path) -> Path:
    return directory / f"counters_{PartialState().process_index}.json"
