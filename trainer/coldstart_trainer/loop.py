"""The training loop as a stage runs it: saved whole, reported, stopped by SIGTERM and by NaN."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import Trainer, TrainerCallback

from coldstart.metrics import named
from coldstart.stage import MANIFEST, DatasetEntry
from coldstart.status import ErrorCode
from coldstart_trainer import checkpoint
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.termination import TERMINATION, Terminated
from coldstart_trainer.training import TrainingStage

LAST_LOGS = 10
"""The stage's final `loss` is the mean of as many last log lines: one alone is noise."""


class Keeper:
    """Saves a Trainer's checkpoints so that each is whole or absent."""

    def __init__(
        self, stage: TrainingStage, datasets: tuple[DatasetEntry, ...], steps: int
    ) -> None:
        self.stage = stage
        self.origin = checkpoint.Origin(stage.order, stage.source, datasets)
        self.steps = steps
        self.seconds = 0.0

    def opened(self, step: int) -> Path:
        """The directory of a checkpoint that is about to be written; it has no manifest yet."""
        self.stage.progress.write("save", step, self.steps)
        directory = self.stage.layout.checkpoints / f"{checkpoint.PREFIX}{step}"
        if PartialState().is_main_process:
            (directory / MANIFEST).unlink(missing_ok=True)
        return directory

    def closed(self, directory: Path, step: int, metrics: dict[str, float], since: float) -> None:
        """Seal it when every process has written its part, and remove what is too old."""
        PartialState().wait_for_everyone()
        if PartialState().is_main_process:
            checkpoint.seal(directory, self.origin, step, metrics)
            checkpoint.rotate(directory.parent, self.stage.spec.keep_checkpoints)
        self.seconds = time.monotonic() - since


class StageTrainer(Trainer):
    """What a stage changes in TRL's trainers; mixed into each, before it in the order of bases."""

    keeper: Keeper

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        since, step = time.monotonic(), self.state.global_step
        directory = self.keeper.opened(step)
        self.complete_state()
        super()._save_checkpoint(model, trial)
        self.save_more(directory)
        self.keeper.closed(directory, step, last_metrics(self.state.log_history), since)

    def complete_state(self) -> None:
        """Put into the Trainer's state what TRL keeps beside it."""

    def save_more(self, directory: Path) -> None:
        """Write what a stage has besides the Trainer's state; every process calls it."""

    def _run_epoch(self, *arguments: Any, **named_arguments: Any) -> None:
        # Killed between its last update and its final checkpoint, a stage resumes with nothing
        # left to do; the Trainer would make one more update (seen in transformers 5.17).
        if self.state.global_step < self.state.max_steps:
            super()._run_epoch(*arguments, **named_arguments)  # type: ignore[no-untyped-call]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # The stage has loaded the model from this checkpoint. The Trainer's own loading finds
        # none of Qwen2.5-VL's names and goes on with a warning (QwenLM/Qwen3-VL#1763).
        pass

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        if norm is not None and not math.isfinite(float(norm)):
            # Before the optimizer steps: the weights, and the checkpoints, are still good.
            raise StageFailure(
                ErrorCode.NON_FINITE,
                f"the gradient's norm is {float(norm)} in update {self.state.global_step + 1}: "
                f"lower {self.keeper.stage.field}.learningRate, or look at the rows of this update",
            )
        return norm

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """Write none: a checkpoint is described by its manifest."""


class StageCallback(TrainerCallback):
    """Reports each log line, ends on SIGTERM after the step, and stops at numbers that are none."""

    def __init__(self, keeper: Keeper, extra: Mapping[str, float] | None = None) -> None:
        self.keeper = keeper
        self.extra = extra if extra is not None else {}
        self.stopped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Take the intervals of this order: a resumed state has those of the one that saved it."""
        state.compute_steps(args, state.max_steps)
        self.keeper.stage.progress.write("train", state.global_step, self.keeper.steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
        """Save and stop if any process was told to end."""
        if _any_process(TERMINATION.requested):
            control.should_save = True
            control.should_training_stop = True
            self.stopped = True
        return control

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ARG002
        """Append a line of progress.

        Raises:
            StageFailure: the loss is not finite.
        """
        numbers = {
            key: value for key, value in more["logs"].items() if isinstance(value, float | int)
        }
        loss = numbers.get("loss", 0.0)
        if not math.isfinite(loss):
            raise StageFailure(
                ErrorCode.NON_FINITE,
                f"the loss is {loss} in update {state.global_step}: "
                f"lower {self.keeper.stage.field}.learningRate",
            )
        values = named(numbers) | self._own()
        self.keeper.stage.progress.write(
            "train", state.global_step, self.keeper.steps, values=values
        )

    def _own(self) -> dict[str, float]:
        own = {"host_rss_bytes": _resident_bytes(), **self.extra}
        if self.keeper.seconds:
            own["checkpoint_seconds"] = self.keeper.seconds
        if torch.cuda.is_available():
            own["gpu_memory_peak_bytes"] = float(torch.cuda.max_memory_allocated())
        return own


def train(trainer: Any, callback: StageCallback, resume: Path | None) -> None:
    """Train to the end, or until told to stop; SIGTERM is taken after each update.

    Raises:
        Terminated: the process was told to end; what was reached is saved.
        StageFailure: a number was not finite.
    """
    with TERMINATION.deferred():
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if callback.stopped or TERMINATION.requested:
        raise Terminated(f"was told to end; saved at update {trainer.state.global_step}")


def last_metrics(history: list[dict[str, Any]]) -> dict[str, float]:
    """The newest value of each metric, and as `loss` the mean of the last lines that have one."""
    found: dict[str, float] = {}
    for line in history:
        numbers = {key: value for key, value in line.items() if isinstance(value, float | int)}
        found |= {k: float(v) for k, v in named(numbers).items() if math.isfinite(v)}
    losses = [line["loss"] for line in history if "loss" in line][-LAST_LOGS:]
    return found | ({"loss": statistics.fmean(losses)} if losses else {})


def _any_process(flag: bool) -> bool:
    """Whether it is true in any process; the same answer in all."""
    state = PartialState()
    if state.num_processes == 1:
        return flag
    number = torch.tensor(int(flag), device=state.device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
    return bool(number.item())


def _resident_bytes() -> float:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return math.nan
    return float(int(pages) * os.sysconf("SC_PAGE_SIZE"))
