"""Supervised fine-tuning on responses: the cold start, on TRL's SFTTrainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from torch.utils.data import Sampler
from transformers import TrainerState
from trl.trainer.sft_config import SFTConfig

from coldstart import schedule
from coldstart.spec import SFT, Conversation
from coldstart.stage import StageOrder, StageResult
from coldstart_trainer import data, loop, model, options, text_rows, training
from coldstart_trainer.inputs import Input
from coldstart_trainer.keeper import Keeper
from coldstart_trainer.loop import StageCallback, StageTrainer
from coldstart_trainer.measuring import MeasuredRows
from coldstart_trainer.packing import PackingTrainer
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.sampling import PassSampler
from coldstart_trainer.training import TrainingStage


class Trainer(MeasuredRows, StageTrainer, PackingTrainer):
    """TRL's trainer on packed rows with our saving and our order of rows."""

    updates_per_pass: int

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        rows = self.train_dataset if train_dataset is None else train_dataset
        return PassSampler(
            rows, self.args.seed, lambda: self.state.global_step // self.updates_per_pass
        )

    def complete_state(self) -> None:
        """Save how many tokens were seen: TRL 1.16 counts them anew after a restart."""
        self.state.num_input_tokens_seen = self._total_train_tokens

    def restore_counts(self, directory: Path) -> None:
        """Go on counting where a checkpoint left off."""
        state = TrainerState.load_from_json(str(directory / "trainer_state.json"))
        self._total_train_tokens = state.num_input_tokens_seen


def run(order: StageOrder, source: Input, progress: ProgressLog) -> StageResult:
    """One attempt of the stage, from its last checkpoint if there is one.

    Raises:
        DataError, ModelError, CheckpointError, StageFailure: with the code of the result.
        Terminated: told to end; what was reached is saved.
        OSError: the storage is full or cannot be written.
    """
    stage = TrainingStage(order, source, progress)
    spec = order.spec.sft
    assert spec is not None
    training.require_devices(stage)
    training.join(stage)
    conversation = order.spec.conversation
    model.require_trainable(source.directory, spec.freeze, f"{stage.field}.freeze")
    processor = model.load_processor(source.directory, conversation)
    dataset = spec.dataset or training.distilled(order)
    rows = training.load_rows(stage, dataset, "response", processor, "dataset")
    kept, held = data.split(rows, spec.held_out, spec.seed)
    probed = training.probe_rows(stage, processor, held)
    steps = schedule.sft_steps(spec, len(kept))
    resume = training.resume_point(stage)
    config = options.configuration(SFTConfig, stage, arguments(stage, spec, steps, len(held)))
    policy = model.load_model(resume or source.directory, precision="fp32")
    model.freeze(policy, spec.freeze)
    keeper = Keeper(stage, (rows.entry,), steps)
    callback = StageCallback(keeper)
    trainer = Trainer(
        spec=spec,
        model=policy,
        args=config,
        train_dataset=learnable(kept.data, processor, conversation),
        eval_dataset=learnable(held.data, processor, conversation) if len(held) else None,
        processing_class=processor,
        callbacks=[callback],
    )
    trainer.keeper = keeper
    trainer.updates_per_pass = schedule.sft_steps_per_pass(spec, len(kept))
    if resume:
        trainer.restore_counts(resume)
    loop.train(trainer, callback, resume)
    metrics = loop.last_metrics(trainer.state.log_history)
    metrics |= training.probe(trainer, stage, probed)
    return training.finish(trainer, stage, (rows.entry,), metrics)


def learnable(rows: Dataset, processor: Any, conversation: Conversation) -> Dataset:
    """The rows as SFTTrainer takes them for this kind of model."""
    if model.sees_images(processor):
        return data.conversations(rows, conversation)
    return text_rows.tokenized(rows, processor, conversation)


def arguments(stage: TrainingStage, spec: SFT, steps: int, held_out: int) -> dict[str, Any]:
    """The options of SFTConfig that the spec owns, each with its value."""
    return options.common_arguments(stage, steps) | {
        "completion_only_loss": True,
        "dataset_kwargs": {"skip_prepare_dataset": True},  # rows are made when they are asked for
        "eval_steps": spec.eval_steps,
        "eval_strategy": "steps" if spec.eval_steps and held_out else "no",
        "max_length": None,  # TRL's default of 1,024 cuts into the image tokens
        "packing": False,
        "per_device_eval_batch_size": spec.micro_batch_size,
    }
