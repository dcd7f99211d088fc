"""Group relative policy optimization, on TRL's GRPOTrainer; what is rewarded stands in rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.utils.data import Sampler
from trl.trainer.grpo_config import GRPOConfig

from coldstart import schedule
from coldstart.spec import GRPO
from coldstart.stage import StageOrder, StageResult
from coldstart.status import ErrorCode
from coldstart_trainer import data, loop, model, options, rewards, training
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.inputs import Input
from coldstart_trainer.keeper import Keeper
from coldstart_trainer.loop import StageCallback, StageTrainer
from coldstart_trainer.measuring import MeasuredRollouts
from coldstart_trainer.policy.groups import GroupTrainer
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.rollout.server import require_server
from coldstart_trainer.rollout.settings import EngineSettings, most_images, require_engine
from coldstart_trainer.rollout.settings import arguments as engine_arguments
from coldstart_trainer.rollout.trainer import EngineTrainer
from coldstart_trainer.sampling import GroupSampler
from coldstart_trainer.training import TrainingStage


class Trainer(MeasuredRollouts, StageTrainer, GroupTrainer, EngineTrainer):
    """Groups' trainer with our saving, our order of prompts, and rollouts through restarts."""

    updates_per_pass: int

    @property
    def passes_per_step(self) -> int:
        """Forward passes of each process that one sampling step's completions are learnt in."""
        return schedule.accumulation(self.spec) * self.spec.updates_per_step

    def training_step(self, *arguments: Any, **named: Any) -> Any:
        """Forward and backward of a micro-batch, unless the stage is to end before it."""
        self.end_if_told()
        return super().training_step(*arguments, **named)

    def between_parts(self) -> None:
        """Sampling, rewards and log-probabilities may each take minutes."""
        self.end_if_told()

    def _get_train_sampler(self, dataset: Any = None) -> Sampler[int]:
        return GroupSampler(
            self.train_dataset if dataset is None else dataset,
            group=self.spec.group_size,
            prompts=self.spec.prompts_per_step,
            repeats=self.passes_per_step,
            seed=self.spec.seed,
            current_pass=lambda: self.state.global_step // self.updates_per_pass,
        )

    def save_more(self, directory: Path) -> None:
        """Keep the completions that later updates of this sampling step learn from."""
        # Not TRL's count of passes, which may have begun the next update.
        updates = self.state.global_step % self.spec.updates_per_step
        done = schedule.accumulation(self.spec) * updates
        if done and self._buffered_inputs is not None:
            left = self._buffered_inputs[done:]
            torch.save({"done": done, "batches": left}, self._rollout_file(directory))

    def restore_rollout(self, directory: Path) -> None:
        """Take up a sampling step where a checkpoint left it.

        TRL starts counting at 0, so it would sample anew in the middle of a step, from a policy
        that is some updates further.
        """
        path = self._rollout_file(directory)
        if path.is_file():
            left = torch.load(path, map_location=self.args.device, weights_only=True)
            self._step = left["done"]
            self._buffered_inputs = [None] * left["done"] + left["batches"]

    def _rollout_file(self, directory: Path) -> Path:
        return directory / f"rollout_{self.args.process_index}.pt"


def run(order: StageOrder, source: Input, progress: ProgressLog) -> StageResult:
    """One attempt of the stage, from its last checkpoint if there is one.

    Raises:
        DataError, ModelError, RewardError, CheckpointError, StageFailure: with the result's code.
        Terminated: told to end; what was reached is saved.
        OSError: the storage is full or cannot be written.
    """
    stage = TrainingStage(order, source, progress)
    spec = order.spec.grpo
    assert spec is not None
    require_engine(spec)
    training.require_devices(stage)
    training.join(stage)
    conversation = order.spec.conversation
    model.require_trainable(source.directory, spec.freeze, f"{stage.field}.freeze")
    processor = model.load_processor(source.directory, conversation)
    rows = training.load_rows(stage, spec.dataset, "answer", processor, "dataset")
    kept, held = data.split(rows, spec.held_out, spec.seed)
    probed = training.probe_rows(stage, processor, held)
    per_pass = _samplings_per_pass(stage, spec, len(kept))
    steps = schedule.grpo_steps(spec, len(kept)).updates
    resume = training.resume_point(stage)
    config = options.configuration(GRPOConfig, stage, arguments(stage, spec, steps))
    if PartialState().is_main_process:
        _require_server(config, (order.spec.model.name, str(source.directory)))
    policy = model.load_model(resume or source.directory, precision="fp32")
    # TRL loads the reference model from where the policy says that it is from.
    policy.config._name_or_path = str(source.directory)  # noqa: SLF001
    model.freeze(policy, spec.freeze)
    loop.end_generation_when_told(policy)
    images = most_images(rows.data)
    engine = EngineSettings(spec, conversation, source.directory, processor, images)
    with rewards.rewards(spec.rewards, workdir=Path(order.workdir)) as scores:
        scores.check(kept.data, conversation)
        keeper = Keeper(stage, (rows.entry,), steps, scores.counters)
        callback = StageCallback(keeper)
        trainer = Trainer(
            spec=spec,
            model=policy,
            reward_funcs=[*scores.functions],
            args=config,
            train_dataset=data.conversations(kept.data, conversation),
            processing_class=processor,
            callbacks=[callback],
            engine=engine,
        )
        trainer.keeper = keeper
        trainer.updates_per_pass = per_pass * spec.updates_per_step
        if resume:
            trainer.restore_rollout(resume)
        loop.train(trainer, callback, resume)
    metrics = loop.last_metrics(trainer.state.log_history)
    # A result has little room, from which many words would drive out what the gate judges.
    counts = loop.total(scores.counters).items()
    metrics |= {key: number for key, number in counts if key not in trainer.reflections.series}
    metrics |= training.probe(trainer, stage, probed)
    return training.finish(trainer, stage, (rows.entry,), metrics)


def arguments(stage: TrainingStage, spec: GRPO, steps: int) -> dict[str, Any]:
    """The options of GRPOConfig that the spec owns, each with its value (recipe, 3)."""
    conversation = stage.order.spec.conversation
    return options.common_arguments(stage, steps) | {
        "beta": spec.loss.kl,
        "delta": spec.loss.dual_clip,
        "epsilon": spec.loss.clip_low,
        "epsilon_high": spec.loss.clip_high,
        "eval_strategy": "no",
        "generation_batch_size": spec.completions_per_step,
        "loss_type": spec.loss.type,
        "mask_truncated_completions": spec.truncated == "mask",
        "max_completion_length": conversation.max_completion_tokens,
        "num_generations": spec.group_size,
        "num_iterations": 1,
        "reward_weights": [reward.weight for reward in spec.rewards],
        "scale_rewards": spec.loss.scale_rewards,
        "shuffle_dataset": True,
        "steps_per_generation": None,  # follows from generation_batch_size
        "temperature": spec.rollout.temperature,
        "top_p": spec.rollout.top_p,
        **engine_arguments(spec, conversation),
    }


def _require_server(config: Any, names: tuple[str, ...]) -> None:
    """Wait for the vLLM server, if one samples, and refuse one that serves another model."""
    if config.use_vllm and config.vllm_mode == "server":
        require_server(
            config.vllm_server_base_url,
            config.vllm_server_timeout,
            names,
            config.vllm_max_model_length,
        )


def _samplings_per_pass(stage: TrainingStage, spec: GRPO, rows: int) -> int:
    found = schedule.grpo_samplings_per_pass(spec, rows)
    if not found:
        raise StageFailure(
            ErrorCode.DATASET_INVALID,
            f"{stage.field}.dataset: {rows} rows to train on do not fill one sampling step; "
            f"lower promptsPerStep ({spec.prompts_per_step})",
        )
    return found
