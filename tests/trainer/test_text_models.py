"""Models without vision through every stage, and what is refused with them."""

import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file
from stage_attempts import CONVERSATION, here, losses, order
from transformers import AutoModelForCausalLM

from coldstart import layout
from coldstart.checkpoint import TOKENIZER_FILES
from coldstart.dataset import Dataset
from coldstart.layout import output
from coldstart.spec import Conversation
from coldstart.stage import RunRef, StageInput, StageOrder
from coldstart.status import ErrorCode
from coldstart.summary import read_samples
from coldstart_trainer import data, evaluation, inputs
from coldstart_trainer import model as models
from coldstart_trainer.data import DataError
from coldstart_trainer.generation import encode
from coldstart_trainer.model import ModelError
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.text_rows import tokenized

SPEC = Conversation.parse(CONVERSATION)
SHORT = {"maxSteps": 2, "probe": {"size": 0}}


@pytest.fixture(params=["tiny_qwen2", "tiny_qwen3"])
def text_model(request):
    """The directory of each kind of text model."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def rows(text_model, tiny_texts):
    def load(**spec):
        conversation = SPEC.model_copy(update=spec)
        return data.load(
            Dataset(name=str(tiny_texts)),
            target="response",
            conversation=conversation,
            processor=models.load_processor(text_model, conversation),
            workdir=tiny_texts.parent,
            seed=0,
            field="spec.sft.dataset",
        )

    return load


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_it_is_trained(stage, text_model, tiny_texts, tmp_path):
    probe = {"maxSteps": 2, "probe": {"size": 2}}
    given = order(stage, tmp_path / "runs", text_model, tiny_texts, **probe)
    result = here(given)
    assert result.checkpoint.step == 2
    assert result.metrics["probe_n"] == 2
    assert sorted(losses(given)) == [1, 2]
    final = output(given).final
    for name in TOKENIZER_FILES:
        assert (final / name).exists() == (text_model / name).exists()
        if (final / name).exists():
            assert (final / name).read_bytes() == (text_model / name).read_bytes()
    AutoModelForCausalLM.from_pretrained(final)
    old, new = (load_file(path / "model.safetensors") for path in (text_model, final))
    assert any(not torch.equal(old[name], new[name]) for name in old)


def test_it_is_evaluated_and_reported(text_model, tiny_texts, tmp_path):
    given = StageOrder(
        run=RunRef(name="r", uid="u"),
        stage="evaluation",
        attempt=1,
        spec={
            "model": {"name": str(text_model)},
            "conversation": CONVERSATION,
            "sft": {"dataset": {"name": str(tiny_texts)}},
            "evaluation": {
                "benchmarks": [{"name": "sums", "dataset": {"name": str(tiny_texts), "limit": 3}}],
                "checkpoints": ["base"],
                "resources": {"gpusPerNode": 0},
                "precision": "fp32",
                "batchSize": 2,
            },
        },
        inputs=(StageInput(name="base", location=str(text_model)),),
        storage=str(tmp_path / "runs"),
        workdir=str(tiny_texts.parent),
    )
    progress = ProgressLog(tmp_path / "metrics.jsonl", 1)
    assert evaluation.run(given, inputs.resolve(given), progress)["responses_base"] == 3
    run = layout.RunLayout(tmp_path / "runs" / "r")
    samples = read_samples(run.benchmark("base", "sums"))
    assert {sample.images for sample in samples} == {()}
    assert samples[0].problem in run.report.read_text()


def test_token_ids_are_the_same_in_sft_grpo_and_evaluation(rows, text_model):
    tokenizer = models.load_processor(text_model, SPEC)
    kept = rows().data
    learnt = tokenized(kept, tokenizer, SPEC)
    messages = data.conversations(kept, SPEC)
    ours = encode(tokenizer, kept[:3], SPEC)
    for index in range(3):
        prompt = ours["input_ids"][index][ours["attention_mask"][index] == 1].tolist()
        grpo = tokenizer.apply_chat_template(
            messages[index]["prompt"], add_generation_prompt=True, return_dict=True
        )["input_ids"]
        assert grpo == prompt
        assert kept[index]["problem"] in tokenizer.decode(prompt)

        example = learnt[index]
        answer = [token for token in example["labels"] if token != -100]
        assert example["input_ids"] == prompt + answer
        assert tokenizer.decode(answer).endswith(kept[index]["response"] + "<|im_end|>\n")
        whole = tokenizer.apply_chat_template(
            messages[index]["prompt"] + messages[index]["completion"], tokenize=False
        )
        assert tokenizer.decode(example["input_ids"]) == whole


def test_prompts_are_as_long_as_they_are_counted(rows, text_model):
    tokenizer = models.load_processor(text_model, SPEC)
    kept = rows().data
    exact = encode(tokenizer, kept[:], SPEC)["attention_mask"].sum(1).tolist()
    assert data.prompt_tokens(kept, tokenizer, SPEC) == exact


def test_rows_that_are_too_long_are_dropped_and_counted(rows, text_model):
    tokenizer = models.load_processor(text_model, SPEC)
    lengths = data.prompt_tokens(rows().data, tokenizer, SPEC)
    longest, shortest = max(lengths), min(lengths)
    kept = rows(max_prompt_tokens=longest - 1)
    assert kept.entry.dropped == {"prompt_too_long": lengths.count(longest)}
    assert len(kept) == len(lengths) - lengths.count(longest)
    with pytest.raises(DataError, match=rf"maxPromptTokens.*shortest has {shortest} tokens"):
        rows(max_prompt_tokens=shortest - 1)


@pytest.fixture
def unreadable(tiny_qwen2, tmp_path):
    """A text model whose weights cannot be loaded: what is refused with it needed none."""
    directory = tmp_path / "model"
    shutil.copytree(tiny_qwen2, directory)
    (directory / "model.safetensors").write_bytes(b"")
    return directory


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_a_text_model_with_images_is_refused_before_it_is_loaded(
    stage, unreadable, tiny_rows, tmp_path
):
    with pytest.raises(DataError) as caught:
        here(order(stage, tmp_path / "runs", unreadable, tiny_rows, **SHORT))
    assert caught.value.code is ErrorCode.DATASET_INVALID
    assert str(caught.value) == (
        f"spec.{stage}.dataset: {tiny_rows}, row 0, column 'images': has 1 images, but the "
        "model is a text model: take rows without images, or a vision-language model in "
        "spec.model.name"
    )


@pytest.mark.parametrize("stage", ["sft", "grpo"])
def test_freezing_all_of_a_text_model_is_refused_before_it_is_loaded(
    stage, unreadable, tiny_texts, tmp_path
):
    frozen = {"freeze": ["vision", "language"]}
    with pytest.raises(
        ModelError, match=rf"spec\.{stage}\.freeze: freezes language.*all that a qwen2"
    ):
        here(order(stage, tmp_path / "runs", unreadable, tiny_texts, **frozen))


def test_freezing_what_a_text_model_lacks_changes_nothing(tiny_qwen2, caplog):
    caplog.set_level(logging.INFO)
    models.require_trainable(tiny_qwen2, ("vision", "aligner"), "spec.sft.freeze")
    assert "a qwen2 model has no vision and no aligner" in caplog.text
    model = models.load_model(tiny_qwen2, precision="fp32")
    models.freeze(model, ("vision", "aligner"))
    assert all(parameter.requires_grad for parameter in model.parameters())
    counts = models.parameter_counts(model)
    assert counts == {"vision": 0, "aligner": 0, "language": model.num_parameters()}


def test_a_text_model_without_its_tokenizer_is_refused(tiny_qwen2, tmp_path):
    shutil.copyfile(tiny_qwen2 / "config.json", tmp_path / "config.json")
    with pytest.raises(ModelError, match="has no tokenizer"):
        models.load_processor(tmp_path, SPEC)


def test_a_text_model_without_chat_template_is_refused(tiny_qwen2, tmp_path):
    shutil.copytree(tiny_qwen2, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="has no chat template"):
        models.load_processor(tmp_path, SPEC)
