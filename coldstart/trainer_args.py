"""Options of TRL's trainers that a field of the spec decides, so that `trainerArgs` may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_ABOVE = ("conversation.", "model.", "podTemplate.")
"""What begins the paths of fields that are not of a stage."""

_TRAINING = {
    "adam_beta1": "adamBeta1",
    "adam_beta2": "adamBeta2",
    "auto_find_batch_size": "microBatchSize",
    "bf16": "precision",
    "data_seed": "seed",
    "dataloader_drop_last": "epochs",
    "deepspeed": "parallelism",
    "enable_jit_checkpoint": "saveSteps",
    "fp16": "precision",
    "fsdp": "parallelism",
    "full_determinism": "seed",
    "gradient_accumulation_steps": "microBatchSize",
    "gradient_checkpointing": "gradientCheckpointing",
    "hub_token": "podTemplate.secrets",
    "ignore_data_skip": "saveSteps",
    "learning_rate": "learningRate",
    "load_best_model_at_end": "keepCheckpoints",
    "logging_nan_inf_filter": "logSteps",
    "logging_steps": "logSteps",
    "logging_strategy": "logSteps",
    "lr_scheduler_type": "lrScheduler",
    "max_grad_norm": "maxGradNorm",
    "max_steps": "maxSteps",
    "num_train_epochs": "epochs",
    "output_dir": "saveSteps",
    "per_device_train_batch_size": "microBatchSize",
    "push_to_hub": "saveSteps",
    "remove_unused_columns": "dataset.columns",
    "resume_from_checkpoint": "saveSteps",
    "save_only_model": "saveSteps",
    "save_steps": "saveSteps",
    "save_strategy": "saveSteps",
    "save_total_limit": "keepCheckpoints",
    "seed": "seed",
    "train_sampling_strategy": "seed",
    "trust_remote_code": "model.name",
    "use_cpu": "resources.gpusPerNode",
    "warmup_steps": "warmupRatio",
    "weight_decay": "weightDecay",
}

SFT_ARGS: Mapping[str, str] = {
    **_TRAINING,
    "completion_only_loss": "dataset.columns.response",
    "dataset_kwargs": "dataset",
    "eval_steps": "evalSteps",
    "eval_strategy": "evalSteps",
    "max_length": "conversation.maxCompletionTokens",
    "packing": "packing",
    "per_device_eval_batch_size": "microBatchSize",
}
"""Options of SFTConfig that the spec owns, with the field that does."""

GRPO_ARGS: Mapping[str, str] = {
    **_TRAINING,
    "beta": "loss.kl",
    "delta": "loss.dualClip",
    "epsilon": "loss.clipLow",
    "epsilon_high": "loss.clipHigh",
    "eval_strategy": "probe",
    "generation_batch_size": "promptsPerStep",
    "loss_type": "loss.type",
    "mask_truncated_completions": "truncated",
    "max_completion_length": "conversation.maxCompletionTokens",
    "num_generations": "groupSize",
    "num_iterations": "updatesPerStep",
    "reward_weights": "rewards",
    "scale_rewards": "loss.scaleRewards",
    "shuffle_dataset": "seed",
    "steps_per_generation": "updatesPerStep",
    "temperature": "rollout.temperature",
    "top_p": "rollout.topP",
    "use_vllm": "rollout.engine",
    "vllm_enable_sleep_mode": "rollout.sleep",
    "vllm_gpu_memory_utilization": "rollout.gpuMemoryUtilization",
    "vllm_importance_sampling_correction": "rollout.maxMismatch",
    "vllm_max_model_length": "conversation.maxPromptTokens",
    "vllm_mode": "rollout.mode",
    "vllm_server_base_url": "rollout.serverUrl",
    "vllm_tensor_parallel_size": "rollout.tensorParallelSize",
}
"""Options of GRPOConfig that the spec owns, with the field that does."""


def refuse_owned(stage: str, owned: Mapping[str, str]) -> Callable[[str], str]:
    """What checks a name in `trainerArgs`, for pydantic to call on each."""

    def check(name: str) -> str:
        if field := owned.get(name):
            raise ValueError(f"is owned by {owner(stage, field)}")
        return name

    return check


def owner(stage: str, field: str) -> str:
    """The path of a field in the spec, as the tables here have it."""
    return f"spec.{field}" if field.startswith(_ABOVE) else f"spec.{stage}.{field}"
