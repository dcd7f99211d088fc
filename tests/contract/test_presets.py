"""The presets hold every value of the recipe, and what the user writes wins."""

import statistics

import pytest
from pydantic import ValidationError

from coldstart import preset
from coldstart.run import ReasoningRun
from coldstart.schema import problems
from coldstart.trainer_args import GRPO_ARGS, SFT_ARGS, owner

SFT_VALUES = {
    "dataset.name": "WaltonFuture/Multimodal-Cold-Start",
    "dataset.columns.images": "images",
    "dataset.columns.problem": "problem",
    "dataset.columns.response": "answer",
    "freeze": ["vision"],
    "epochs": 3,
    "learningRate": 1e-5,
    "lrScheduler": "cosine",
    "warmupRatio": 0,
    "weightDecay": 0.1,
    "adamBeta2": 0.95,
    "precision": "bf16",
    "gradientCheckpointing": True,
    "batchSize": 64,
    "microBatchSize": 1,
    "resources.nodes": 1,
    "resources.gpusPerNode": 4,
    "parallelism.zero": 2,
    "heldOut": 0.01,
    "evalSteps": 20,
    "saveSteps": 20,
    "keepCheckpoints": 2,
    "seed": 42,
}

GRPO_VALUES = {
    "dataset.name": "WaltonFuture/Multimodal-RL-Data",
    "dataset.columns.answer": "answer",
    "seed": 1,
    "promptsPerStep": 512,
    "groupSize": 10,
    "updatesPerStep": 4,
    "epochs": 2,
    "rollout.engine": "vllm",
    "rollout.mode": "colocate",
    "rollout.temperature": 0.7,
    "rollout.topP": 0.99,
    "rollout.tensorParallelSize": 2,
    "rollout.gpuMemoryUtilization": 0.6,
    "loss.type": "bnpo",
    "loss.clipLow": 0.2,
    "loss.clipHigh": 0.3,
    "loss.dualClip": 3.0,
    "loss.kl": 0.01,
    "loss.scaleRewards": "group",
    "learningRate": 1e-6,
    "lrScheduler": "constant",
    "adamBeta1": 0.9,
    "adamBeta2": 0.999,
    "weightDecay": 0.01,
    "maxGradNorm": 1.0,
    "precision": "bf16",
    "freeze": [],
    "resources.nodes": 1,
    "resources.gpusPerNode": 8,
    "parallelism.zero": 3,
    "parallelism.offload": True,
    "rewards.0.name": "accuracy",
    "rewards.0.weight": 1.0,
}

CONVERSATION_VALUES = {
    "system": "Please reason step by step, and put your final answer within \\boxed{}.",
    "minPixels": 262_144,
    "maxPixels": 1_204_224,
    "maxPromptTokens": 2048,
    "maxCompletionTokens": 2048,
}

EVALUATION_VALUES = {
    "benchmarks.0.name": "mathvision",
    "benchmarks.1.name": "mathverse",
    "benchmarks.2.name": "mathvista",
    "benchmarks.3.name": "wemath",
    "decoding.temperature": 0.2,
    "decoding.maxCompletionTokens": 16_384,
    "decoding.samples": 1,
    "precision": "bf16",
}


def document(name="paper-7b", **spec):
    return {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": "run"},
        "spec": {"preset": name, **spec},
    }


def resolved(name="paper-7b", **spec):
    return preset.resolve(document(name, **spec))["spec"]


def at(value, path):
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    return value


@pytest.mark.parametrize("name", preset.names())
@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("sft", SFT_VALUES),
        ("grpo", GRPO_VALUES),
        ("evaluation", EVALUATION_VALUES),
        ("conversation", CONVERSATION_VALUES),
    ],
)
def test_every_value_of_the_recipe_is_in_the_resolved_spec(name, section, values):
    run = ReasoningRun.parse(preset.resolve(document(name, sft={}, grpo={}, evaluation={})))
    found = run.spec.document()[section]
    assert {path: at(found, path) for path in values} == values
    assert len(found.get("rewards", [0])) == 1


def test_the_presets_are_two_and_differ_in_the_model_alone():
    assert preset.names() == ("paper-3b", "paper-7b")
    small, large = preset.load("paper-3b"), preset.load("paper-7b")
    assert small.pop("model") == {"name": "Qwen/Qwen2.5-VL-3B-Instruct"}
    assert large.pop("model") == {"name": "Qwen/Qwen2.5-VL-7B-Instruct"}
    assert small == large


def test_a_section_that_the_file_lacks_stays_absent_but_model_and_conversation_do_not():
    spec = resolved(grpo={})
    assert "sft" not in spec
    assert spec["conversation"]["maxPixels"] == 1_204_224
    assert spec["model"]["name"] == "Qwen/Qwen2.5-VL-7B-Instruct"


def test_an_empty_section_takes_the_whole_preset():
    assert resolved(sft=None)["sft"] == preset.load("paper-7b")["sft"]


def test_the_user_wins_deep_down_and_keeps_the_rest():
    spec = resolved(grpo={"rollout": {"engine": "transformers"}, "loss": {"dualClip": None}})
    assert spec["grpo"]["rollout"]["engine"] == "transformers"
    assert spec["grpo"]["rollout"]["topP"] == 0.99
    assert spec["grpo"]["loss"]["dualClip"] is None
    assert spec["grpo"]["loss"]["clipHigh"] == 0.3


def test_lists_are_replaced():
    spec = resolved(sft={"freeze": []}, grpo={"rewards": [{"name": "format"}]})
    assert spec["sft"]["freeze"] == []
    assert spec["grpo"]["rewards"] == [{"name": "format"}]


def test_another_data_set_takes_nothing_from_the_presets():
    spec = resolved(sft={"dataset": {"name": "mine.parquet"}})
    assert spec["sft"]["dataset"] == {"name": "mine.parquet"}
    limited = resolved(sft={"dataset": {"limit": 10}})["sft"]["dataset"]
    assert limited["name"] == "WaltonFuture/Multimodal-Cold-Start"
    assert limited["columns"]["response"] == "answer"


@pytest.mark.parametrize(
    "wrong",
    [{}, {"spec": None}, {"spec": []}, {"spec": {"preset": "paper-70b"}}, {"spec": {"preset": []}}],
)
def test_a_wrong_document_is_left_to_validation(wrong):
    assert preset.resolve(wrong) == wrong


def test_resolving_changes_nothing_of_what_it_was_given():
    given = document(sft={"loss": 1})
    preset.resolve(given)
    assert given == document(sft={"loss": 1})


@pytest.mark.parametrize(("stage", "owned"), [("sft", SFT_ARGS), ("grpo", GRPO_ARGS)])
def test_an_option_that_the_spec_owns_is_refused_with_its_path(stage, owned):
    for name in owned:
        section = {"dataset": {"name": "d"}, "trainerArgs": {name: 1}}
        with pytest.raises(ValidationError) as caught:
            ReasoningRun.parse(document(None, model={"name": "m"}, **{stage: section}))
        (line,) = problems(caught.value)
        assert line.startswith(f"spec.{stage}.trainerArgs.{name}: is owned by spec.")


def test_the_message_names_the_field_that_owns_the_option():
    sft = {"dataset": {"name": "d"}, "trainerArgs": {"learning_rate": 1, "max_length": 2}}
    with pytest.raises(ValidationError) as caught:
        ReasoningRun.parse(document(None, model={"name": "m"}, sft=sft))
    assert problems(caught.value, "run.yaml: ") == [
        "run.yaml: spec.sft.trainerArgs.learning_rate: is owned by spec.sft.learningRate",
        (
            "run.yaml: spec.sft.trainerArgs.max_length: is owned by "
            "spec.conversation.maxCompletionTokens"
        ),
    ]


def test_the_owning_fields_exist():
    run = ReasoningRun.parse(preset.resolve(document(sft={}, grpo={})))
    for stage, owned in (("sft", SFT_ARGS), ("grpo", GRPO_ARGS)):
        for field in set(owned.values()):
            section = run.spec
            for part in owner(stage, field).removeprefix("spec.").split("."):
                aliases = {
                    info.alias or name: name for name, info in type(section).model_fields.items()
                }
                section = getattr(section, aliases[part])


def test_the_recipes_advantages():
    """Group mean and deviation (ddof 1): the golden values that the trainer's are held to."""
    rewards = [1, 0, 1, 1, 0, 0, 1, 0, 1, 1]
    mean, deviation = statistics.fmean(rewards), statistics.stdev(rewards)
    advantages = {round((reward - mean) / (deviation + 1e-6), 4) for reward in rewards}
    assert advantages == {0.7746, -1.1619}
