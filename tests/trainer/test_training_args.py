"""TRL's options: each that the spec owns has a value, and no other way leads to it."""

import dataclasses

import pytest
from stage_attempts import order
from trl import GRPOConfig, SFTConfig

from coldstart import preset
from coldstart.run import RunSpec
from coldstart.status import ErrorCode
from coldstart.trainer_args import GRPO_ARGS, SFT_ARGS
from coldstart_trainer import grpo, options, sft
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.training import TrainingStage, require_devices

KINDS = {"sft": (SFTConfig, SFT_ARGS), "grpo": (GRPOConfig, GRPO_ARGS)}


def stage_of(given):
    return TrainingStage(given, None, ProgressLog(given.storage, 1, enabled=False))


def stage(name, tmp_path, **section):
    return stage_of(order(name, tmp_path / "runs", "model", "rows.jsonl", **section))


def paper(name, tmp_path):
    """The stage of the preset, as an order has it."""
    document = {"spec": {"preset": "paper-7b", name: {}}}
    spec = RunSpec.parse(preset.resolve(document)["spec"])
    given = order(name, tmp_path / "runs", "model", "rows.jsonl")
    return stage_of(given.model_copy(update={"spec": spec}))


def owned(given, steps=100):
    if given.order.stage.value == "sft":
        return sft.arguments(given, given.spec, steps, 5)
    return grpo.arguments(given, given.spec, steps)


@pytest.mark.parametrize("name", KINDS)
def test_the_mapping_owns_what_the_contract_says(name, tmp_path):
    kind, names = KINDS[name]
    assert set(owned(stage(name, tmp_path))) == set(names)
    assert set(names) <= {item.name for item in dataclasses.fields(kind)}
    assert not set(names) & set(options.PREFERENCES)


@pytest.mark.parametrize("name", KINDS)
def test_trl_takes_the_options(name, tmp_path):
    kind, _ = KINDS[name]
    given = stage(name, tmp_path)
    config = options.configuration(kind, given, owned(given))
    assert config.use_cpu
    assert not config.bf16
    assert config.report_to == []
    assert config.gradient_checkpointing_kwargs == {"use_reentrant": False}


def test_the_papers_sft_in_trls_words(tmp_path):
    values = owned(paper("sft", tmp_path), steps=2394)
    assert values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * 4 == 64
    expected = {
        "learning_rate": 1e-5,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0,
        "weight_decay": 0.1,
        "adam_beta2": 0.95,
        "bf16": True,
        "gradient_checkpointing": True,
        "max_length": None,
        "max_steps": 2394,
        "save_steps": 20,
        "eval_steps": 20,
        "eval_strategy": "steps",
        "completion_only_loss": True,
        "seed": 42,
        "use_cpu": False,
    }
    assert {name: values[name] for name in expected} == expected
    assert values["deepspeed"]["zero_optimization"] == {"stage": 2}


def test_the_papers_grpo_in_trls_words(tmp_path):
    values = owned(paper("grpo", tmp_path), steps=496)
    per_update = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * 8
    assert per_update == 1280
    expected = {
        "num_generations": 10,
        "temperature": 0.7,
        "top_p": 0.99,
        "max_completion_length": 2048,
        "beta": 0.01,
        "epsilon": 0.2,
        "epsilon_high": 0.3,
        "delta": 3.0,
        "loss_type": "bnpo",
        "scale_rewards": "group",
        "num_iterations": 1,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "generation_batch_size": 5120,
        "reward_weights": [1.0],
        "seed": 1,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
    }
    assert {name: values[name] for name in expected} == expected
    zero = values["deepspeed"]["zero_optimization"]
    assert zero["stage"] == 3
    assert zero["offload_param"]["device"] == zero["offload_optimizer"]["device"] == "cpu"
    assert values["deepspeed"]["bf16"] == {"enabled": True}


def test_trainer_args_are_passed_on_and_win_over_preferences(tmp_path):
    given = stage("sft", tmp_path, trainerArgs={"adam_epsilon": 1e-6, "optim": "sgd"})
    config = options.configuration(SFTConfig, given, owned(given))
    assert config.adam_epsilon == 1e-6
    assert config.optim == "sgd"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lerning_rate": 1}, "spec.sft.trainerArgs.lerning_rate: SFTConfig has no such option"),
        ({"optim": "nonsense"}, "spec.sft: SFTConfig refuses its options: nonsense is"),
    ],
)
def test_what_trl_does_not_know_is_refused(tmp_path, arguments, message):
    given = stage("sft", tmp_path, trainerArgs=arguments)
    with pytest.raises(StageFailure) as caught:
        options.configuration(SFTConfig, given, owned(given))
    assert caught.value.code is ErrorCode.INVALID_ORDER
    assert message in str(caught.value)


def test_without_held_out_rows_nothing_is_evaluated(tmp_path):
    given = stage("sft", tmp_path, evalSteps=2, heldOut=0)
    assert sft.arguments(given, given.spec, 10, 0)["eval_strategy"] == "no"


def test_warm_up_is_a_share_of_the_steps(tmp_path):
    given = stage("sft", tmp_path, warmupRatio=0.05)
    assert owned(given, steps=101)["warmup_steps"] == 6


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"resources": {"gpusPerNode": 64}, "batchSize": 128},
            "spec.sft.resources.gpusPerNode is 64, but this machine has",
        ),
        (
            {"resources": {"gpusPerNode": 0, "nodes": 2}},
            "spec.sft.resources asks for 2 processes, torchrun started 1",
        ),
        ({"parallelism": {"zero": 2}}, "spec.sft.parallelism.zero is 2, but deepspeed is not"),
    ],
)
def test_less_than_the_spec_asks_for_is_refused(tmp_path, monkeypatch, section, message):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(StageFailure) as caught:
        require_devices(stage("sft", tmp_path, **section))
    assert caught.value.code is ErrorCode.RESOURCES_MISSING
    assert message in str(caught.value)


def test_on_a_cpu_deepspeed_needs_a_compiler(tmp_path, monkeypatch):
    pytest.importorskip("deepspeed")
    given = stage("sft", tmp_path, parallelism={"zero": 1})
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StageFailure, match="zero is 1, but there is no C") as caught:
        require_devices(given)
    assert caught.value.code is ErrorCode.RESOURCES_MISSING


def test_an_offloaded_optimizer_is_torchs(tmp_path):
    given = stage("sft", tmp_path, parallelism={"zero": 2, "offload": True})
    config = options.deepspeed_config(given.spec)
    assert config["zero_force_ds_cpu_optimizer"] is False
    assert "zero_force_ds_cpu_optimizer" not in options.deepspeed_config(
        stage("sft", tmp_path, parallelism={"zero": 2}).spec
    )
