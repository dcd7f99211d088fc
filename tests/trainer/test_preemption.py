"""SIGTERM while completions are sampled, and what befalls a checkpoint that is being sealed."""

import time

import pytest
import torch
from forked import carried_out, ended, ranks
from safetensors.torch import load_file
from stage_attempts import (
    again,
    here,
    lines,
    losses,
    order,
    read_result,
    wait_for_update,
    with_words,
)

from coldstart.checkpoint import verify
from coldstart.layout import output
from coldstart.stage import MANIFEST
from coldstart.status import ErrorCode

LONG = {
    "conversation": {"maxCompletionTokens": 150},
    "promptsPerStep": 12,
    "microBatchSize": 12,
    "maxSteps": 4,
    "saveSteps": 1000,
    "probe": {"size": 0},
    "resources": {"nodes": 2, "gpusPerNode": 0},
}
"""A pass is one sampling step of 48 long completions, learnt from in two updates."""

COUNTED = '''
from length_reward import score as other
def score(completions, **columns):
    """Raises for each batch but the trial."""
    if any(c[0]["content"] and not c[0]["content"].startswith("The answer") for c in completions):
        raise ValueError("as it should")
    return other(completions)
'''


SHORT = {"maxSteps": 6, "saveSteps": 100, "probe": {"size": 0}}


def weights(given):
    tensors = load_file(output(given).final / "model.safetensors")
    return {name: value.flatten().tolist() for name, value in tensors.items()}


def counted(given):
    """What was counted after each update, as reported last."""
    return {
        line["done"]: line["values"]["reward_errors_total"]
        for line in lines(given)
        if "reward_errors_total" in line["values"]
    }


def reflected(given):
    """How many completions had which words, and were judged how, as reported last."""
    found = {}
    for line in lines(given):
        found |= {k: v for k, v in line["values"].items() if k.startswith("reflection_")}
    return found


@pytest.mark.slow
def test_told_to_end_while_it_samples_it_does_not_learn_from_that_any_more(
    tiny_model, tiny_rows, tmp_path
):
    """One of two processes is told, at the end of a pass; the next attempt samples the same."""
    section = LONG | {"rewards": [{"name": "length_reward:score"}, {"name": "counted:score"}]}
    words = ("is", "of", "the", "your", "3")
    whole = order("grpo", tmp_path / "whole", tiny_model, tiny_rows, **section)
    whole = with_words(whole, *words)
    (tmp_path / "workdir" / "counted.py").write_text(COUNTED)
    carried_out(whole, tmp_path / "whole.json", 2)
    given = order("grpo", tmp_path / "runs", tiny_model, tiny_rows, **section)
    given = with_words(given, *words)
    processes = ranks(given, tmp_path / "result.json", 2)
    wait_for_update(given, processes[0], 2)
    time.sleep(0.2)
    processes[1].terminate()
    assert ended(processes) == [143, 143]
    error = read_result(tmp_path / "result.json").error
    assert (error.code, error.message) == (
        ErrorCode.TERMINATED,
        "was told to end; saved at update 2",
    )
    assert sorted(losses(given)) == [1, 2]
    verify(output(given).checkpoints / "checkpoint-2")
    carried_out(again(given), tmp_path / "second.json", 2)
    assert losses(given) == losses(whole)
    assert weights(given) == weights(whole)
    assert counted(given) == counted(whole) == {1: 2.0, 2: 2.0, 3: 4.0, 4: 4.0}
    assert reflected(given) == reflected(whole)
    outcomes = [n for key, n in reflected(given).items() if key.startswith("reflection_outcomes")]
    assert sum(outcomes) == 96 > max(outcomes)


@pytest.fixture(scope="module")
def uninterrupted(tiny_model, tiny_rows, tmp_path_factory):
    given = order("grpo", tmp_path_factory.mktemp("whole") / "runs", tiny_model, tiny_rows, **SHORT)
    here(given)
    return given


@pytest.mark.parametrize(
    ("learning", "step"),
    [
        pytest.param(False, 4, id="scores"),
        pytest.param(True, 3, id="learns"),
    ],
)
def test_told_to_end_between_micro_batches_it_goes_on_as_if_it_had_not_been(
    tiny_model, tiny_rows, tmp_path, monkeypatch, uninterrupted, learning, step
):
    """While log-probabilities are computed, or in the middle of an update, of a sampling step."""
    from coldstart_trainer.policy.scoring import ScoringTrainer
    from coldstart_trainer.termination import TERMINATION, Terminated

    monkeypatch.setattr(TERMINATION, "requested", False)
    scored, passes = ScoringTrainer._shared, []

    def _shared(self, *arguments, **options):
        if self.state.global_step == step and torch.is_grad_enabled() == learning:
            passes.append(step)
            TERMINATION.requested = True
        return scored(self, *arguments, **options)

    monkeypatch.setattr(ScoringTrainer, "_shared", _shared)
    given = order("grpo", tmp_path / "runs", tiny_model, tiny_rows, **SHORT)
    with pytest.raises(Terminated, match=f"was told to end; saved at update {step}"):
        here(given)
    assert passes == [step], "one micro-batch, and no further one"
    assert sorted(losses(given)) == [*range(1, step + 1)]
    TERMINATION.requested = False
    monkeypatch.setattr(ScoringTrainer, "_shared", scored)
    here(again(given))
    assert losses(given) == losses(uninterrupted)
    assert weights(given) == weights(uninterrupted)


@pytest.mark.slow
def test_killed_while_it_seals_it_goes_on_from_the_checkpoint_before(
    tiny_model, tiny_rows, tmp_path
):
    section = {"maxSteps": 8, "probe": {"size": 0}}
    whole = order("sft", tmp_path / "whole", tiny_model, tiny_rows, **section)
    carried_out(whole, tmp_path / "whole.json")
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, **section)
    fourth = output(given).checkpoints / "checkpoint-4"
    (process,) = ranks(given, tmp_path / "result.json")
    wait_for_update(given, process, 1)
    fourth.mkdir(parents=True)
    with (fourth / "large").open("wb") as filler:
        filler.truncate(4 << 30)  # takes seconds to hash, and no room
    wait_for_update(given, process, 5)
    process.kill()
    process.join()
    assert (fourth / "trainer_state.json").is_file()
    assert not (fourth / MANIFEST).exists()
    verify(fourth.with_name("checkpoint-2"))
    carried_out(again(given), tmp_path / "second.json")
    assert losses(given) == losses(whole)
    assert weights(given) == weights(whole)


def test_what_fails_while_it_seals_ends_the_stage(tiny_model, tiny_rows, tmp_path, monkeypatch):
    from coldstart_trainer import sft

    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, saveSteps=1)
    second = output(given).checkpoints / "checkpoint-2"
    original = sft.Trainer.compute_loss

    def compute_loss(self, *inputs, **more):
        if self.state.global_step == 1:
            # Where the manifest would be written.
            (second / f"{MANIFEST}.partial").mkdir(parents=True, exist_ok=True)
        return original(self, *inputs, **more)

    monkeypatch.setattr(sft.Trainer, "compute_loss", compute_loss)
    with pytest.raises(OSError, match=r"coldstart\.json\.partial"):
        here(given)
    assert max(losses(given)) <= 3
    assert not (second / MANIFEST).exists()
    verify(second.with_name("checkpoint-1"))
    assert not output(given).final.exists()


def test_the_share_of_the_time_spent_saving_is_told(tiny_model, tiny_rows, tmp_path):
    given = order("sft", tmp_path / "runs", tiny_model, tiny_rows, maxSteps=3, probe={"size": 0})
    here(given)
    shares = {
        line["done"]: line["values"]["checkpoint_time_ratio"]
        for line in lines(given)
        if line["phase"] == "train" and line["values"]
    }
    assert shares[1] == 0
    assert 0 < shares[3] < 1
