"""GRPO on the tiny model with a colocated vLLM: what it samples from, and what stops it."""

import sys
import time

import pytest
from stage_attempts import again, here, lines, losses, order, read_result, start, wait_for_update
from vllm_model import NEEDS_VLLM, vllm_model, with_video_settings

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout.prompts import Ended

__all__ = ["vllm_model"]

pytestmark = NEEDS_VLLM

UPDATES = 6
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone")
SHORT = {"rollout": {"engine": "vllm"}, "probe": {"size": 0}, "saveSteps": 100}


@pytest.fixture(scope="module", autouse=True)
def _process_groups_outlive_a_stage():
    """vLLM keeps them for the next engine of its process, and a stage takes them down at its end.
    There is no next one but here.
    """
    from accelerate import PartialState

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialState, "destroy_process_group", lambda _: None)
        yield


@pytest.fixture(scope="module")
def trained(vllm_model, tiny_rows, tmp_path_factory):
    """A stage that has ended: its order, and its trainer with the engine still there."""
    from coldstart_trainer import grpo

    kept = []

    class Kept(grpo.Trainer):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            kept.append(self)

    original, grpo.Trainer = grpo.Trainer, Kept
    try:
        storage = tmp_path_factory.mktemp("grpo") / "runs"
        given = order("grpo", storage, vllm_model, tiny_rows, maxSteps=UPDATES, **SHORT)
        here(given)
    finally:
        grpo.Trainer = original
    return given, kept[0]


@pytest.fixture
def engine(trained):
    """The stage's engine, with the trainer's weights."""
    generation = trained[1].vllm_generation
    generation.sync_weights()
    generation.llm.group = 4
    yield generation.llm
    generation.sync_weights()


def versions(given):
    """The updates in the trainer's and in the engine's weights, when each update had ended."""
    names = ("trainer_weights_version", "engine_weights_version")
    return {
        line["done"]: tuple(line["values"][name] for name in names)
        for line in lines(given)
        if "loss" in line["values"]
    }


def prompt(trainer):
    """A row as TRL hands it to vLLM: its picture is three tokens, all written out."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    picture = max((row["images"][0] for row in trainer.train_dataset), key=lambda p: p.width)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": "Sum?"}]
    asked = [[{"role": "user", "content": content}]]
    tokens, images, _ = GRPOTrainer._tokenize_prompts(trainer, asked)
    return {"prompt_token_ids": list(tokens[0]), "multi_modal_data": {"image": images[0][0]}}


def sampling(trainer, **changes):
    from vllm import SamplingParams

    values = {"max_tokens": 16, "temperature": 1.0, "logprobs": 0}
    return SamplingParams(**values | trainer.engine.sampling | changes)


def test_its_log_probabilities_are_the_trainers(trained):
    """Not quite: the trainer's softmax holds the tokens that vLLM may not sample, 4 of 354 here."""
    given, _ = trained
    sampled = [
        line["values"] for line in lines(given) if "sampler_logp_diff_mean" in line["values"]
    ]
    assert len(sampled) == UPDATES // 2
    assert all(0 < values["sampler_logp_diff_mean"] < 0.015 for values in sampled)
    assert all(values["samples_dropped_total{mismatch}"] == 0 for values in sampled)


def test_it_sampled_from_the_weights_of_each_steps_start(trained):
    assert versions(trained[0]) == {
        1: (1, 0),
        2: (2, 0),
        3: (3, 2),
        4: (4, 2),
        5: (5, 4),
        6: (6, 4),
    }


def test_each_prompt_was_requested_once_for_its_whole_group(trained):
    _, trainer = trained
    counted = len(range(0, 22, 3))  # every third row, one token each, before the first step
    assert trainer.vllm_generation.llm.requests == counted + UPDATES // 2 * 4


def test_completions_come_in_the_order_of_the_rows(trained, engine):
    _, trainer = trained
    first, second = prompt(trainer), prompt(trainer)
    second["prompt_token_ids"].append(second["prompt_token_ids"][-1])
    rows = [first] * 4 + [second] * 4
    outputs = engine.generate(rows, sampling(trainer), use_tqdm=False)
    assert [output.prompt_token_ids for output in outputs] == [
        row["prompt_token_ids"] for row in rows
    ]
    assert all(len(output.outputs) == 1 for output in outputs)
    assert len({tuple(output.outputs[0].token_ids) for output in outputs}) > 4


def test_tokens_that_stand_for_pixels_are_never_sampled(trained, engine):
    _, trainer = trained
    rows = [prompt(trainer)] * 4 * 30

    def found(**changes):
        chosen = sampling(trainer, temperature=2.0, ignore_eos=True, **changes)
        outputs = engine.generate(rows, chosen, use_tqdm=False)
        tokens = [token for output in outputs for token in output.outputs[0].token_ids]
        return trainer.engine.forbidden.intersection(tokens)

    assert found(bad_words=None)
    assert not found()


def test_a_prompt_with_image_tokens_counted_otherwise_stops_the_stage(trained, engine):
    row = prompt(trained[1])
    pad = trained[1].engine.pad
    row["prompt_token_ids"].insert(row["prompt_token_ids"].index(pad), pad)
    with pytest.raises(StageFailure, match="has 4 image tokens for the trainer and 3"):
        engine.generate([row] * 4, sampling(trained[1]), use_tqdm=False)


def test_trls_own_prompts_would_have_stopped_the_stage(trained, engine, monkeypatch):
    """huggingface/trl#6401: image tokens that are already written out are written out again."""
    from coldstart_trainer.rollout import engine as module

    monkeypatch.setattr(module, "collapsed", lambda tokens, _: tokens)
    with pytest.raises(StageFailure, match=r"has 3 image tokens .* and 5 for vLLM") as caught:
        engine.generate([prompt(trained[1])] * 4, sampling(trained[1]), use_tqdm=False)
    assert caught.value.code is ErrorCode.SAMPLER_MISMATCH


def test_an_engine_with_the_base_models_weights_stops_the_stage(trained, vllm_model, engine):
    """huggingface/trl#5312: sleeping vLLM woke up with them, after every sync."""
    from safetensors.torch import load_file

    held = engine.llm_engine.model_executor.driver_worker.model_runner.model
    held.load_weights(load_file(vllm_model / "model.safetensors").items())
    with pytest.raises(
        StageFailure, match=r"weights are not the trainer's: .* differs at update 6"
    ):
        engine.generate([prompt(trained[1])] * 4, sampling(trained[1]), use_tqdm=False)


def test_images_are_seen_anew_after_each_sync(trained, engine):
    """huggingface/trl#7198: vLLM went on with what the old vision tower had made of an image."""
    from trl.generation.vllm_generation import VLLMGeneration

    _, trainer = trained
    row = prompt(trainer)

    def most_likely():
        chosen = sampling(trainer, max_tokens=1, logprobs=1)
        output = engine.generate([row] * 4, chosen, use_tqdm=False)[0].outputs[0]
        return max(token.logprob for token in output.logprobs[0].values())

    before = most_likely()
    for name, parameter in trainer.model.named_parameters():
        if "visual" in name:
            parameter.data *= 1.5
    VLLMGeneration.sync_weights(trainer.vllm_generation)
    assert most_likely() == before
    trainer.vllm_generation.sync_weights()
    assert most_likely() != before


@pytest.mark.parametrize("half", ["first", "second"])
def test_a_half_done_sync_stops_the_stage(trained, engine, half):
    _, trainer = trained
    named = list(trainer.model.named_parameters())
    middle = len(named) // 2
    for _, parameter in named:
        parameter.data += 1e-3
    copied = named[:middle] if half == "first" else named[middle:]
    held = engine.llm_engine.model_executor.driver_worker.model_runner.model
    held.load_weights((name, parameter.data) for name, parameter in copied)
    with pytest.raises(StageFailure, match="differs at update"):
        engine.generate([prompt(trainer)] * 4, sampling(trainer), use_tqdm=False)


def test_an_engine_that_is_an_update_behind_stops_the_stage(trained, engine, monkeypatch):
    _, trainer = trained
    monkeypatch.setattr(trainer.state, "global_step", 7)
    with pytest.raises(StageFailure, match="those of update 6, the trainer is at 7"):
        engine.generate([prompt(trainer)] * 4, sampling(trainer), use_tqdm=False)


def test_told_to_end_it_gives_up_what_it_samples_and_can_go_on(trained, engine, monkeypatch):
    _, trainer = trained
    steps = iter(range(1000))
    monkeypatch.setattr(engine, "told_to_end", lambda: next(steps) == 5)
    rows = [prompt(trainer)] * 8
    with pytest.raises(Ended):
        engine.generate(rows, sampling(trainer, ignore_eos=True), use_tqdm=False)
    assert next(steps) == 6
    assert not engine.llm_engine.has_unfinished_requests()
    outputs = engine.generate(rows, sampling(trainer, ignore_eos=True), use_tqdm=False)
    assert [len(output.outputs[0].token_ids) for output in outputs] == [16] * 8


LONG = SHORT | {
    "conversation": {"maxCompletionTokens": 100},
    "maxSteps": 4,
    "promptsPerStep": 12,
    "microBatchSize": 12,
    "saveSteps": 1000,
}
"""A pass is one sampling step of 48 long completions, learnt from in two updates."""


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_told_to_end_while_it_samples_it_goes_on_as_if_it_had_not_been(
    vllm_model, tiny_rows, tmp_path, size
):
    section = LONG | {"rollout": {"engine": "vllm", "tensorParallelSize": size}}
    section["resources"] = {"nodes": size, "gpusPerNode": 0}

    def attempt(given, result):
        return start(given, result, command=(*TORCHRUN, f"--nproc-per-node={size}"))

    whole = order("grpo", tmp_path / "whole", vllm_model, tiny_rows, **section)
    assert attempt(whole, tmp_path / "whole.json").wait(timeout=300) == 0
    given = order("grpo", tmp_path / "runs", vllm_model, tiny_rows, **section)
    process = attempt(given, tmp_path / "result.json")
    wait_for_update(given, process, 2)
    time.sleep(0.3)
    process.terminate()
    assert process.wait(timeout=60) != 0
    error = read_result(tmp_path / "result.json").error
    assert error.message == "was told to end; saved at update 2"
    assert sorted(losses(given)) == [1, 2]
    assert attempt(again(given), tmp_path / "second.json").wait(timeout=300) == 0
    assert losses(given) == losses(whole)


def test_completions_of_another_distribution_are_left_out(vllm_model, tiny_rows, tmp_path):
    """The bound is below what the tokens that are never sampled make of it: nearly all are out."""
    rollout = {"engine": "vllm", "maxMismatch": 0.005, "onMismatch": "mask"}
    section = SHORT | {"rollout": rollout, "maxSteps": 2}
    given = order("grpo", tmp_path / "runs", vllm_model, tiny_rows, **section)
    result = here(given)
    assert 8 < result.metrics["samples_dropped_total{mismatch}"] <= 16
    assert result.metrics["samples_dropped_total{vision_token}"] == 0


def test_an_engine_that_scales_images_otherwise_stops_the_stage_before_training(
    vllm_model, tiny_rows, tmp_path, monkeypatch
):
    from coldstart_trainer.rollout.settings import EngineSettings

    arguments = EngineSettings.engine.fget
    monkeypatch.setattr(
        EngineSettings,
        "engine",
        property(lambda self: arguments(self) | {"mm_processor_kwargs": {"min_pixels": 784}}),
    )
    given = order(
        "grpo", tmp_path / "runs", vllm_model, tiny_rows, conversation={"minPixels": 7840}, **SHORT
    )
    with pytest.raises(
        StageFailure, match=r"image tokens for the trainer and \d for vLLM"
    ) as caught:
        here(given)
    assert caught.value.code is ErrorCode.SAMPLER_MISMATCH
    assert not any("loss" in line["values"] for line in lines(given))


def test_what_vllm_refuses_is_said_before_training(vllm_model, tiny_rows, tmp_path):
    """Such as prompts that are longer than the model's positions."""
    longer = {"maxPromptTokens": 4000}
    given = order("grpo", tmp_path / "runs", vllm_model, tiny_rows, conversation=longer, **SHORT)
    with pytest.raises(StageFailure, match=r"rollout: vLLM does not start: .*4016.*1024") as caught:
        here(given)
    assert caught.value.code is ErrorCode.INVALID_ORDER


@pytest.mark.parametrize("name", ["tiny_qwen2", "tiny_qwen3"])
def test_a_text_model_is_sampled_exactly(name, tiny_texts, tmp_path, request):
    """No token is kept from it, so that the difference is rounding."""
    model = request.getfixturevalue(name)
    section = SHORT | {"maxSteps": 3}
    given = order("grpo", tmp_path / "runs", model, tiny_texts, **section)
    assert 0 < here(given).metrics["sampler_logp_diff_mean"] < 1e-4
    assert versions(given)[3] == (3, 2)


def test_qwen3_vl_is_sampled_from_too(tiny_qwen3_vl, tiny_rows, tmp_path):
    model = with_video_settings(tiny_qwen3_vl, tmp_path / "model", "Qwen3VLVideoProcessor")
    given = order("grpo", tmp_path / "runs", model, tiny_rows, **SHORT | {"maxSteps": 3})
    assert 0 < here(given).metrics["sampler_logp_diff_mean"] < 0.015
    assert versions(given)[3] == (3, 2)


@pytest.mark.slow
def test_two_processes_share_one_engine(vllm_model, tiny_rows, tmp_path):
    """Each holds half of every matrix, and gets its own rows' completions back."""
    section = SHORT | {
        "rollout": {"engine": "vllm", "tensorParallelSize": 2},
        "resources": {"nodes": 2, "gpusPerNode": 0},
        "maxSteps": 4,
    }
    given = order("grpo", tmp_path / "runs", vllm_model, tiny_rows, **section)
    result = tmp_path / "result.json"
    assert start(given, result, command=(*TORCHRUN, "--nproc-per-node=2")).wait(timeout=300) == 0
    assert 0 < read_result(result).metrics["sampler_logp_diff_mean"] < 0.015
    assert versions(given)[4] == (4, 2)
