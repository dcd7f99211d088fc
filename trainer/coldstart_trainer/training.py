"""What both training stages do around their loop: rows, probe, the end; not the loop itself."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import os
import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from coldstart.dataset import Dataset
from coldstart.layout import ROWS, StageLayout, output
from coldstart.spec import GRPO, SFT
from coldstart.stage import DatasetEntry, StageOrder, StageResult
from coldstart.status import ErrorCode
from coldstart_trainer import checkpoint, data, evaluation, extensions, gang
from coldstart_trainer.data import Rows
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.inputs import Input
from coldstart_trainer.phases import phase
from coldstart_trainer.progress import ProgressLog

ZERO_3 = 3
"""The ZeRO stage that spreads the parameters, too: every process takes part in each forward."""

PROBE_BATCH = 16
"""Probe responses that one process makes at once."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingStage:
    """One attempt of a training stage: what its functions hand to each other."""

    order: StageOrder
    source: Input
    progress: ProgressLog

    @property
    def spec(self) -> SFT | GRPO:
        """The stage's section."""
        section = self.order.spec.stage(self.order.stage)
        assert isinstance(section, SFT | GRPO)
        return section

    @property
    def layout(self) -> StageLayout:
        """The stage's directory."""
        return output(self.order)

    @property
    def field(self) -> str:
        """The path of the section in the run.yaml, for errors."""
        return f"spec.{self.order.stage.value}"


def require_devices(stage: TrainingStage) -> None:
    """Refuse to start on less than the spec asks for, instead of training on something else.

    Raises:
        StageFailure: ResourcesMissing.
    """
    resources = stage.spec.resources
    started = int(os.environ.get("WORLD_SIZE", "1"))
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    message = ""
    if there < resources.gpus_per_node:
        message = (
            f"resources.gpusPerNode is {resources.gpus_per_node}, but this machine has "
            f"{there} usable GPUs; set it to 0 to train on the CPU"
        )
    elif started != resources.world_size:
        message = f"resources asks for {resources.world_size} processes, torchrun started {started}"
    elif stage.spec.parallelism.zero:
        message = _lacking_for_deepspeed(stage.spec)
    if message:
        raise StageFailure(ErrorCode.RESOURCES_MISSING, f"{stage.field}.{message}")


def _lacking_for_deepspeed(spec: SFT | GRPO) -> str:
    field = f"parallelism.zero is {spec.parallelism.zero}"
    if importlib.util.find_spec("deepspeed") is None:
        return (
            f"{field}, but deepspeed is not installed: "
            "install coldstart-operator[gpu], or set it to 0"
        )
    on_cpu = spec.resources.gpus_per_node == 0
    if on_cpu and "CXX" not in os.environ and shutil.which("c++") is None:
        return (
            f"{field}, but there is no C++ compiler (c++), with which DeepSpeed makes what it "
            "needs on a CPU: install one, or set it to 0"
        )
    return ""


def join(stage: TrainingStage) -> None:
    """Meet the stage's other processes.

    Under ZeRO-3 a model is spread while it is loaded, before the Trainer brings DeepSpeed up;
    without this it would be spread over one process, and then refused.
    """
    on_cpu = stage.spec.resources.gpus_per_node == 0
    seconds = _patience(stage)
    if stage.spec.parallelism.zero:
        extensions.build_in_turns()
        deepspeed = importlib.import_module("deepspeed")
        backend, timeout = "gloo" if on_cpu else "nccl", timedelta(seconds=seconds)
        deepspeed.init_distributed(backend, timeout=timeout)
    gang.meet(cpu=on_cpu, seconds=seconds)


def _patience(stage: TrainingStage) -> int:
    """How long a process waits for another, which may hang, before it ends and is tried again.

    Raises:
        StageFailure: InvalidOrder.
    """
    seconds = stage.spec.trainer_args.get("ddp_timeout", gang.PATIENCE_SECONDS)
    if not isinstance(seconds, int) or seconds <= 0:
        message = f"{stage.field}.trainerArgs.ddp_timeout is {seconds!r}: give whole seconds"
        raise StageFailure(ErrorCode.INVALID_ORDER, message)
    return seconds


def resume_point(stage: TrainingStage) -> Path | None:
    """The checkpoint to go on from: chosen by one process, the same in all."""
    state = PartialState()
    chosen: list[Path | None] = [None]
    if state.is_main_process:
        chosen = [checkpoint.choose(stage.layout.checkpoints, stage.order)]
    if state.num_processes > 1:
        broadcast_object_list(chosen)
    if chosen[0]:
        log.info("going on from %s", chosen[0])
    return chosen[0]


def load_rows(
    stage: TrainingStage,
    dataset: Dataset,
    target: Literal["response", "answer"],
    processor: Any,
    name: str,
) -> Rows:
    """The rows of one of the stage's data sets; one process of a machine reads them first.

    Raises:
        DataError: they are missing or wrong.
    """
    with PartialState().local_main_process_first():
        return data.load(
            dataset,
            target=target,
            conversation=stage.order.spec.conversation,
            processor=processor,
            workdir=Path(stage.order.workdir),
            seed=stage.spec.seed,
            field=f"{stage.field}.{name}",
        )


def distilled(order: StageOrder) -> Dataset:
    """The rows that the run's distill stage has made, which `inputs.resolve` has checked."""
    location = next(item.location for item in order.inputs if item.name == "distill")
    return Dataset(name=str(Path(order.storage).absolute() / location / ROWS))


def probe_rows(stage: TrainingStage, processor: Any, held: Rows) -> Rows | None:
    """What the stage's end is probed on, read at its start, when a mistake costs nothing.

    Raises:
        DataError: the probe's own data set is missing or wrong.
    """
    spec = stage.spec.probe
    if not spec.size:
        return None
    if spec.dataset is None:
        rows = held
    else:
        rows = load_rows(stage, spec.dataset, "answer", processor, "probe.dataset")
    if not len(rows):
        return None
    return dataclasses.replace(rows, data=rows.data.select(range(min(spec.size, len(rows)))))


def probe(trainer: Any, stage: TrainingStage, rows: Rows | None) -> dict[str, float]:
    """The trained model's scores on the probe, which the gate judges; none without a probe."""
    if rows is None:
        return {}
    with phase("eval"):
        return evaluation.probe(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.processing_class,
            rows.data,
            conversation=stage.order.spec.conversation,
            batch_size=PROBE_BATCH,
            seed=stage.spec.seed,
            on_progress=lambda done, total: stage.progress.write("probe", done, total),
            synced=stage.spec.parallelism.zero == ZERO_3,
        )


def finish(
    trainer: Any,
    stage: TrainingStage,
    datasets: tuple[DatasetEntry, ...],
    metrics: dict[str, float],
) -> StageResult:
    """Write the final checkpoint and make the stage's result; every process calls it.

    Raises:
        CheckpointError: a weight is not finite.
        OSError: the disk is full.
    """
    step = trainer.state.global_step
    stage.progress.write("save", step, step)
    partial = stage.layout.root / "final.partial"
    state = PartialState()
    if state.is_main_process:
        checkpoint.cleared(partial)
    state.wait_for_everyone()
    trainer.save_model(str(partial))
    state.wait_for_everyone()
    reference = None
    if state.is_main_process:
        origin = checkpoint.Origin(stage.order, stage.source, datasets)
        reference = checkpoint.finish(partial, stage.layout, origin, step, metrics)
    state.wait_for_everyone()
    # Its threads otherwise outlive the interpreter, and now and then abort the process (seen once
    # in some fifty runs: ZeRO-3, gloo, exit code 134 after a success).
    state.destroy_process_group()
    return StageResult(
        run=stage.order.run,
        stage=stage.order.stage,
        attempt=stage.order.attempt,
        checkpoint=reference,
        metrics=metrics,
    )
