"""The training loop as a stage runs it: saved whole, reported, stopped by SIGTERM and by NaN."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import PartialState
from transformers import StoppingCriteria, StoppingCriteriaList, Trainer, TrainerCallback

from coldstart.metrics import named
from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.keeper import Keeper
from coldstart_trainer.termination import TERMINATION, Terminated

LAST_LOGS = 10
"""The stage's final `loss` is the mean of as many last log lines: one alone is noise."""


class StageTrainer(Trainer):
    """What a stage changes in TRL's trainers; mixed into each, before it in the order of bases."""

    keeper: Keeper

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        directory = self.keeper.opened(step)
        self.complete_state()
        super()._save_checkpoint(model, trial)
        self.save_more(directory)
        self.keeper.closed(directory, step, last_metrics(self.state.log_history))

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

    def end_if_told(self) -> None:
        """In the middle of an update, end if any process was told to; every process calls it.

        What was sampled and learnt since the last update is given up. The checkpoint is that of
        the last update to the bit, so the next attempt does the same again.

        Raises:
            Terminated: what the last update left is saved.
        """
        if not any_process(TERMINATION.requested, PartialState().device):
            return
        if self.keeper.rewind(self.state):
            self._save_checkpoint(self.model, trial=None)
        raise Terminated(
            f"was told to end; saved at update {self.keeper.saved}"
            if self.keeper.saved
            else "was told to end before the first update"
        )

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        # Before the optimizer steps: the weights, and the checkpoints, are still good. DeepSpeed
        # has been asked to step by then, but leaves that out where the norm is not finite, and
        # says `inf` (0.19; older ones say -1).
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        if norm is not None and not 0 <= float(norm) < math.inf:
            self._stop("the gradient's norm", float(norm))
        if not math.isfinite(loss := float(self._tr_loss)):
            self._stop("the loss", loss)
        return norm

    def _stop(self, what: str, number: float) -> NoReturn:
        raise StageFailure(
            ErrorCode.NON_FINITE,
            f"{what} is {number} in update {self.state.global_step + 1}: "
            f"lower {self.keeper.stage.field}.learningRate, or look at the rows of this update",
        )

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """Write none: a checkpoint is described by its manifest."""


class StageCallback(TrainerCallback):
    """Reports each log line, ends on SIGTERM after the step, and stops at numbers that are none."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.stopped = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Take the intervals of this order: a resumed state has those of the one that saved it."""
        state.compute_steps(args, state.max_steps)
        self.keeper.begin(state.global_step)
        self.keeper.stage.progress.write("train", state.global_step, self.keeper.steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:  # noqa: ARG002
        """Save and stop if any process was told to end."""
        self.keeper.settle(wait=False)
        self.keeper.take(state)
        if any_process(TERMINATION.requested, PartialState().device):
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
        self.keeper.stage.progress.write(
            "train", state.global_step, self.keeper.steps, values=named(numbers)
        )


def train(trainer: Any, callback: StageCallback, resume: Path | None) -> None:
    """Train to the end, or until told to stop; SIGTERM is taken after each update.

    Raises:
        Terminated: the process was told to end; what was reached is saved.
        StageFailure: a number was not finite; the checkpoints before it are whole.
        CheckpointError: a checkpoint could not be sealed.
    """
    if resume:
        trainer.keeper.restore_counters(resume)
    with TERMINATION.deferred():
        try:
            trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        finally:
            trainer.keeper.settle()
    if callback.stopped or TERMINATION.requested:
        raise Terminated(f"was told to end; saved at update {trainer.state.global_step}")


def end_generation_when_told(model: Any) -> None:
    """Have a model's `generate` end early once this process was told to end."""
    criteria = StoppingCriteriaList([_ToldToEnd()])
    model.generate = partial(model.generate, stopping_criteria=criteria)


class _ToldToEnd(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        told = TERMINATION.requested
        return torch.full((input_ids.shape[0],), told, dtype=torch.bool, device=input_ids.device)


def last_metrics(history: list[dict[str, Any]]) -> dict[str, float]:
    """The newest value of each metric, and as `loss` the mean of the last lines that have one."""
    found: dict[str, float] = {}
    for line in history:
        numbers = {key: value for key, value in line.items() if isinstance(value, float | int)}
        found |= {k: float(v) for k, v in named(numbers).items() if math.isfinite(v)}
    losses = [line["loss"] for line in history if "loss" in line][-LAST_LOGS:]
    return found | ({"loss": statistics.fmean(losses)} if losses else {})


def total(counters: Mapping[str, float]) -> dict[str, float]:
    """The sums over all processes, each of which has the same counters; all call it."""
    state = PartialState()
    if state.num_processes == 1 or not counters:
        return dict(counters)
    numbers = torch.tensor(list(counters.values()), dtype=torch.float64, device=state.device)
    torch.distributed.all_reduce(numbers)
    return dict(zip(counters, numbers.tolist(), strict=True))


def any_process(flag: bool, device: torch.device, group: Any = None) -> bool:
    """Whether it is true in any process of a group, or of all; the same answer in each of them."""
    if PartialState().num_processes == 1:
        return flag
    number = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX, group=group)
    return bool(number.item())
