"""SFT on packed rows: the loss, gradients and reported numbers of padded rows, or none at all."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from stage_attempts import here, lines, order
from tiny import png
from trl import SFTConfig

from coldstart.dataset import Dataset
from coldstart.layout import output
from coldstart.spec import SFT
from coldstart.status import ErrorCode
from coldstart_trainer import data, model
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.packing import PADDING, PackingTrainer
from coldstart_trainer.shared import sequences, support
from coldstart_trainer.shared.layout import Group, Layout

IMAGES = ([(28, 28)], [], [(112, 84)], [], [(56, 28), (28, 84)], [(84, 84)], [])
REPORTED = ("loss", "grad_norm", "policy_entropy_nats", "token_accuracy_ratio", "tokens_total")


@pytest.fixture(scope="module")
def ragged_rows(tmp_path_factory):
    """Rows of very different lengths with no image, one, or two, of different sizes."""
    directory = tmp_path_factory.mktemp("ragged-rows")
    rows = []
    for number in range(24):
        sizes = IMAGES[number % len(IMAGES)]
        names = [f"{number}-{place}.png" for place in range(len(sizes))]
        for name, size in zip(names, sizes, strict=True):
            (directory / name).write_bytes(png(*size, number))
        rows.append(
            {
                "images": names,
                "problem": "What is the sum of the digits? " * (1 + number % 2),
                "response": "I read 1. " * (1 + number % 3) + f"\\boxed{{{number}}}.",
            }
        )
    (directory / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory / "rows.jsonl"


@pytest.fixture(scope="module")
def learnable(ragged_rows, processor, conversation):
    rows = data.load(
        Dataset(name=str(ragged_rows)),
        target="response",
        conversation=conversation,
        processor=processor,
        workdir=ragged_rows.parent,
        seed=0,
        field="spec.sft.dataset",
    )
    return data.conversations(rows.data, conversation)


@pytest.fixture
def trainer(tiny_model, processor, learnable, tmp_path):
    """What makes a trainer of the tiny model, with spec and options given."""

    def made(*, freeze=("vision",), checkpointing=False, packing=True, **more):
        policy = model.load_model(tiny_model, precision="fp32")
        model.freeze(policy, freeze)
        spec = SFT.model_validate(
            {"dataset": {"name": "rows"}, "precision": "fp32", "packing": packing}
        )
        options = {
            "completion_only_loss": True,
            "gradient_checkpointing": checkpointing,
            "max_length": None,
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
            "remove_unused_columns": False,
        }
        return PackingTrainer(
            spec=spec,
            model=policy,
            args=SFTConfig(output_dir=str(tmp_path), **options | more),
            train_dataset=learnable,
            processing_class=processor,
        )

    return made


def collated(trainer, learnable, count=7):
    return trainer.data_collator([learnable[place] for place in range(count)])


def outcome(trainer, batch, items=50):
    """The loss of a micro-batch, every gradient, and what is logged."""
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=items)
    loss.backward()
    gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.item(), gradients, trainer._metrics["train"]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"freeze": (), "checkpointing": True},
        {"freeze": ("language",), "checkpointing": True},
        {"freeze": (), "loss_type": "dft"},
    ],
)
def test_a_micro_batch_has_the_loss_and_gradients_of_the_padded_one(trainer, learnable, settings):
    packed, padded = trainer(**settings), trainer(packing=False, **settings)
    batch = collated(packed, learnable)
    loss, gradients, logged = outcome(packed, batch)
    expected, wanted, reported = outcome(padded, batch)
    assert loss == pytest.approx(expected, abs=1e-5)
    assert gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert (gradients[name] - gradient).norm() <= 1e-4 * gradient.norm(), name
    assert logged[support.SELF_CHECK][0] < 1e-5
    assert logged[PADDING] == [pytest.approx(0.4, abs=0.2)]
    assert logged["num_tokens"] == reported["num_tokens"] == [batch["attention_mask"].sum()]
    for key in ("entropy", "mean_token_accuracy"):
        assert logged[key] == pytest.approx(reported[key], abs=1e-6)


def test_several_processes_show_the_vision_tower_an_image(trainer, learnable, monkeypatch):
    """Of text alone, and whatever other processes have: every one runs the same parts."""
    packed = trainer(freeze=())
    batch = packed.data_collator([learnable[1], learnable[3]])
    assert "pixel_values" not in batch
    monkeypatch.setattr(type(packed.accelerator), "num_processes", 2)
    seen = []
    tower = packed.model.model.visual
    tower.register_forward_pre_hook(lambda _module, given: seen.append(given[0].any()))
    _, gradients, logged = outcome(packed, batch)
    assert seen == [False] * 3  # twice to compare, packed and padded, and once to learn
    assert logged[support.SELF_CHECK][0] < 1e-5
    tower = [gradients[n] for n, _ in packed.model.named_parameters() if "visual" in n]
    assert tower
    assert not any(gradient.any() for gradient in tower)


def test_a_row_that_sees_another_is_noticed_in_the_first_step(trainer, learnable, monkeypatch):
    original = sequences.pack

    def leaking(*given, **options):
        packed = original(*given, **options)
        one = Layout((Group(packed.row.layout.length),))
        return replace(packed, row=replace(packed.row, layout=one))

    monkeypatch.setattr(sequences, "pack", leaking)
    packed = trainer()
    batch = collated(packed, learnable)
    with pytest.raises(StageFailure, match=r"spec\.sft\.packing: .* by .* nats \(at m") as caught:
        outcome(packed, batch)
    assert caught.value.code is ErrorCode.SELF_CHECK_FAILED


def test_only_the_first_step_is_checked(trainer, learnable):
    packed = trainer()
    batch = collated(packed, learnable, count=2)
    for _ in range(2):
        _, _, logged = outcome(packed, batch)
    assert len(logged[support.SELF_CHECK]) == 1
    assert len(logged[PADDING]) == 2


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"packing": False}, "spec.sft.packing is false"),
        ({"neftune_noise_alpha": 5.0}, "trainerArgs.neftune_noise_alpha is set"),
        ({"label_smoothing_factor": 0.1}, "trainerArgs.label_smoothing_factor is set"),
    ],
)
def test_it_says_why_rows_are_padded(trainer, learnable, caplog, settings, reason):
    padded = trainer(**settings)
    assert caplog.messages[-1].endswith(reason)
    loss, _, logged = outcome(padded, collated(padded, learnable))
    assert loss > 0
    assert PADDING not in logged
    assert support.SELF_CHECK not in logged


def test_a_model_that_packing_would_change_is_left_alone(trainer, monkeypatch, caplog):
    monkeypatch.setattr(support, "MODEL_TYPES", ("qwen3",))
    padded = trainer()
    assert "model type qwen2_5_vl is not one of qwen3" in caplog.text
    assert padded.unpacked


@pytest.fixture(scope="module")
def stages(tiny_model, ragged_rows, tmp_path_factory):
    """The same stage with packing, which is the default, and without."""
    section = {"microBatchSize": 4, "batchSize": 8, "evalSteps": 2, "probe": {"size": 0}}
    section |= {"freeze": [], "gradientCheckpointing": True, "heldOut": 0.3}
    section["conversation"] = {"maxCompletionTokens": 40}
    packed, padded = (
        order("sft", tmp_path_factory.mktemp(name), tiny_model, ragged_rows, **section | more)
        for name, more in (("packed", {}), ("padded", {"packing": False}))
    )
    here(packed)
    here(padded)
    return packed, padded


def test_a_stage_reports_the_same_numbers(stages):
    packed, padded = ([line["values"] for line in lines(given)] for given in stages)
    compared = 0
    for values, expected in zip(packed, padded, strict=True):
        for key in {*REPORTED, "eval_loss"} & expected.keys():
            assert values[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key
            compared += 1
    assert compared >= 5 * len(REPORTED)
    assert sum("eval_loss" in values for values in packed) >= 2


def test_a_stage_ends_with_the_same_weights_and_configuration(stages):
    packed, padded = (output(given).final for given in stages)
    weights, expected = (load_file(path / "model.safetensors") for path in (packed, padded))
    for name, value in expected.items():
        assert torch.allclose(weights[name], value, atol=2e-4), name
    settings = [json.loads((path / "config.json").read_text()) for path in (packed, padded)]
    assert settings[0] == settings[1]
