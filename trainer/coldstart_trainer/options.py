"""TRL's options from the spec, each with a value; what the spec does not own, the user may set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import ceil
from typing import Any

import torch

from coldstart import schedule
from coldstart.spec import TrainingSpec
from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.gang import PATIENCE_SECONDS
from coldstart_trainer.training import ZERO_3, TrainingStage

PREFERENCES: dict[str, Any] = {
    "average_tokens_across_devices": True,
    "dataloader_num_workers": 0,
    "ddp_timeout": PATIENCE_SECONDS,
    "disable_tqdm": True,
    "gradient_checkpointing_kwargs": {"use_reentrant": False},
    "optim": "adamw_torch",
    "report_to": "none",
}
"""Options that the spec does not own, with our values; `trainerArgs` may say otherwise."""


def common_arguments(stage: TrainingStage, steps: int) -> dict[str, Any]:
    """The options of transformers' Trainer that the spec owns, each with its value.

    Args:
        stage: the stage.
        steps: how many optimizer updates it has.
    """
    spec = stage.spec
    return {
        "adam_beta1": spec.adam_beta1,
        "adam_beta2": spec.adam_beta2,
        "auto_find_batch_size": False,
        "bf16": spec.precision == "bf16",
        "data_seed": spec.seed,
        "dataloader_drop_last": False,
        "deepspeed": deepspeed_config(spec),
        "enable_jit_checkpoint": False,
        "fp16": False,
        "fsdp": None,
        "full_determinism": False,
        "hub_token": None,  # it would stand in order, status and pod
        "gradient_accumulation_steps": schedule.accumulation(spec),
        "gradient_checkpointing": spec.gradient_checkpointing,
        "ignore_data_skip": False,
        "learning_rate": spec.learning_rate,
        "load_best_model_at_end": False,
        "logging_nan_inf_filter": False,  # it would show an average in place of a NaN
        "logging_steps": spec.log_steps,
        "logging_strategy": "steps",
        "lr_scheduler_type": spec.lr_scheduler,
        "max_grad_norm": spec.max_grad_norm,
        "max_steps": steps,
        "num_train_epochs": spec.epochs,
        "output_dir": str(stage.layout.checkpoints),
        "per_device_train_batch_size": spec.micro_batch_size,
        "push_to_hub": False,
        "remove_unused_columns": False,
        "resume_from_checkpoint": None,
        "save_only_model": False,
        "save_steps": spec.save_steps,
        "save_strategy": "steps",
        "save_total_limit": None,  # rotation is ours: the Trainer's knows no pinned checkpoint
        "seed": spec.seed,
        "train_sampling_strategy": "random",
        "trust_remote_code": False,
        "use_cpu": spec.resources.gpus_per_node == 0,
        "warmup_steps": ceil(spec.warmup_ratio * steps),
        "weight_decay": spec.weight_decay,
    }


def deepspeed_config(spec: TrainingSpec) -> dict[str, Any] | None:
    """DeepSpeed's configuration; None for plain data parallelism.

    `auto` values are filled in by the Trainer from its own options, so each has one source.
    """
    stage = spec.parallelism.zero
    if stage == 0:
        return None
    zero: dict[str, Any] = {"stage": stage}
    if stage == ZERO_3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    more: dict[str, Any] = {}
    if spec.parallelism.offload:
        more["zero_force_ds_cpu_optimizer"] = False  # see _preferences
        pinned = {"device": "cpu", "pin_memory": spec.resources.gpus_per_node > 0}
        zero["offload_optimizer"] = pinned
        if stage == ZERO_3:
            zero["offload_param"] = pinned
    return {
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": "auto",
        "train_batch_size": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": spec.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        **more,
    }


def _preferences(spec: TrainingSpec) -> dict[str, Any]:
    made = PREFERENCES | {"dataloader_pin_memory": spec.resources.gpus_per_node > 0}
    if spec.parallelism.offload:
        # On a CPU as fast as DeepSpeedCPUAdam (0.0357 s and 0.0342 s for 30 million weights on one
        # thread), which DeepSpeed 0.19 would take instead: that one must be compiled when training
        # starts, and goes on from a checkpoint with other roundings of its bias correction.
        made["optim"] = "adamw_torch_fused"
    return made


def configuration(kind: type[Any], stage: TrainingStage, owned: Mapping[str, Any]) -> Any:
    """TRL's configuration: our preferences, then the user's `trainerArgs`, then what the spec owns.

    Raises:
        StageFailure: TRL has no such option, or refuses its value (InvalidOrder).
    """
    known = {item.name for item in dataclasses.fields(kind)}
    arguments = stage.spec.trainer_args
    for name in arguments:
        if name not in known:
            raise StageFailure(
                ErrorCode.INVALID_ORDER,
                f"{stage.field}.trainerArgs.{name}: {kind.__name__} has no such option",
            )
    try:
        config = kind(**{**_preferences(stage.spec), **arguments, **owned})
    except (TypeError, ValueError) as error:
        message = f"{stage.field}: {kind.__name__} refuses its options: {error}"
        raise StageFailure(ErrorCode.INVALID_ORDER, message) from error
    if config.device.type == "cpu":
        # With several processes it is `cpu:0` (accelerate 1.15), which torch.load does not know:
        # resuming would fail when the optimizer is read.
        config.__dict__["_setup_devices"] = torch.device("cpu")
    return config
