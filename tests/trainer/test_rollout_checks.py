"""What is checked of a sampler's prompts, weights and numbers; on tensors, without an engine."""

import math

import pytest
import torch

from coldstart.spec import GRPO, Conversation
from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.rollout import settings, weights
from coldstart_trainer.rollout.mismatch import mismatched
from coldstart_trainer.rollout.prompts import (
    collapsed,
    copies,
    ended_twice,
    require_same_tokens,
    without_vision,
)
from coldstart_trainer.rollout.settings import EngineSettings
from coldstart_trainer.rollout.weights import Holding, Share

PAD, END = 5, 2
WHOLE = Share()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([3, 5, 5, 5, 4, 9], [3, 5, 4, 9]),
        ([3, 5, 4, 3, 5, 5, 4], [3, 5, 4, 3, 5, 4]),
        ([9, 9, 8], [9, 9, 8]),
        ([], []),
    ],
)
def test_each_run_of_image_tokens_becomes_one_and_nothing_else_changes(given, expected):
    assert collapsed(given, PAD) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("aaaabbbb", 4),  # whole groups
        ("aa", 2),  # a process with a part of one
        ("aaaabb", 2),  # and with one and a half
        ("abc", 1),
    ],
)
def test_a_prompt_is_sampled_from_once_for_all_its_rows(rows, expected):
    assert copies([[ord(letter)] for letter in rows], 4 if "aa" in rows else 1) == expected


def test_rows_of_one_group_with_different_prompts_are_never_merged():
    with pytest.raises(AssertionError, match="different prompts"):
        copies([[1], [1], [1], [2]], 4)


def test_prompts_that_the_engine_saw_differently_stop_the_stage():
    require_same_tokens([3, 5, 5, 4], (3, 5, 5, 4), PAD)
    with pytest.raises(StageFailure, match="2 image tokens for the trainer and 3 for vLLM") as e:
        require_same_tokens([3, 5, 5, 4], [3, 5, 5, 5, 4], PAD)
    assert e.value.code is ErrorCode.SAMPLER_MISMATCH
    assert not e.value.code.retryable
    with pytest.raises(StageFailure, match="reached vLLM as another one"):
        require_same_tokens([3, 9], [3, 8], None)


def test_a_sampled_vision_token_ends_its_completion_and_marks_it():
    completions, logps = without_vision(
        [[7, 8, END], [7, PAD, 8], [4]],
        [[-1.0, -2.0, -3.0], [-1.0, -2.0, -3.0], [-4.0]],
        {3, 4, PAD},
        END,
    )
    assert completions == [[7, 8, END], [7, END, END], [END, END]]
    assert logps[0] == [-1.0, -2.0, -3.0]
    assert logps[1][:1] == [-1.0]
    assert [len(values) for values in logps] == [3, 3, 2]
    assert all(math.isnan(value) for value in logps[1][1:] + logps[2])
    assert without_vision([[7, PAD]], None, {PAD}, END) == ([[7, END, END]], None)


def test_what_was_cut_is_found_by_its_mark():
    ids = torch.tensor([[7, 8, END, 0], [7, END, END, 0], [7, 8, END, END], [END, END, END, END]])
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    assert ended_twice(ids, mask, END).tolist() == [False, True, True, False]  # or padding


SAMPLED = torch.tensor([[-1.0, -2.0, -3.0], [-1.0, float("nan"), -9.0], [-1.0, -1.0, 0.0]])
TRAINED = torch.tensor([[-1.0, -2.1, -3.0], [-2.0, -2.0, -3.0], [-1.0, -1.0, -50.0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 0]])
"""Distances that count: 0, .1, 0; 1 (and one that is not known); 0, 0: 1.1 over 6 tokens."""


def test_mismatch_is_the_mean_over_the_tokens_that_count():
    bound = 1.1 / 6
    kept = mismatched(SAMPLED, TRAINED, MASK, bound=bound + 1e-4, action="stop")
    assert not kept.any()
    with pytest.raises(StageFailure, match=r"0\.183 nats per token .*maxMismatch \(0\.18") as e:
        mismatched(SAMPLED, TRAINED, MASK, bound=bound - 1e-4, action="stop")
    assert e.value.code is ErrorCode.SAMPLER_MISMATCH


def test_only_completions_that_are_themselves_above_the_bound_are_left_out():
    assert mismatched(SAMPLED, TRAINED, MASK, bound=0.1, action="mask").tolist() == [
        False,
        True,
        False,
    ]


def test_all_processes_judge_the_mean_of_all():
    """Alone this one is fine; with another's tokens it is not."""
    other = torch.tensor([60.0, 6.0])
    found = mismatched(
        SAMPLED, TRAINED, MASK, bound=0.5, action="mask", summed=lambda own: own + other
    )
    assert found.tolist() == [False, True, False]


def test_an_empty_step_has_no_mismatch():
    assert not mismatched(SAMPLED, TRAINED, MASK * 0, bound=0.1, action="stop").any()


def trained():
    """A model by transformers' names, and what an engine makes of it."""
    rng = torch.Generator().manual_seed(0)
    layer = "model.language_model.layers.0"
    shapes = {
        "model.visual.blocks.0.mlp.gate_proj.weight": (6, 4),
        "model.visual.blocks.0.mlp.up_proj.weight": (6, 4),
        "model.language_model.embed_tokens.weight": (10, 4),
        f"{layer}.self_attn.q_proj.weight": (4, 4),
        f"{layer}.self_attn.k_proj.weight": (2, 4),
        f"{layer}.self_attn.v_proj.weight": (2, 4),
        f"{layer}.self_attn.o_proj.weight": (4, 4),
        f"{layer}.input_layernorm.weight": (4,),
    }
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def held(mine):
    names = list(mine)
    place = "language_model.model.layers.0"
    return {
        "visual.blocks.0.mlp.gate_up_proj.weight": torch.cat([mine[names[0]], mine[names[1]]]),
        "language_model.model.embed_tokens.weight": torch.cat(
            [mine[names[2]], torch.zeros(6, 4)]  # rounded up
        ),
        f"{place}.self_attn.qkv_proj.weight": torch.cat([mine[name] for name in names[3:6]]),
        f"{place}.self_attn.o_proj.weight": mine[names[6]].clone(),
        f"{place}.input_layernorm.weight": mine[names[7]].clone(),
    }


def told(engine, share):
    """What the engine's process tells of itself."""
    return {
        "worker": share.rank,
        "rank": share.rank,
        "size": share.size,
        "shapes": {name: list(tensor.shape) for name, tensor in engine.items()},
        "dtypes": {name: str(tensor.dtype) for name, tensor in engine.items()},
    }


def compared(mine, engine, share=WHOLE):
    """The weights that are compared, and those among them that differ."""
    shapes = {name: tensor.shape for name, tensor in mine.items()}
    holding = Holding.of(told(engine, share), mine, shapes)
    differing = [
        part.name
        for part in holding.parts
        if weights.digest(part.ours(mine[part.name]), holding.dtype(part.place))
        != weights.digest(part.theirs(engine[part.place]), engine[part.place].dtype)
    ]
    return [part.name for part in holding.parts], differing


def test_a_weight_that_the_engine_lacks_an_update_of_is_seen_wherever_it_lies():
    mine = trained()
    engine = held(mine)
    assert compared(mine, engine) == ([name for name in mine if "norm" not in name], [])
    for name in mine:
        if "norm" not in name:
            assert compared(mine | {name: mine[name] + 1e-3}, engine)[1] == [name]


def test_weights_are_compared_in_the_engines_precision():
    mine = trained()
    engine = {name: tensor.bfloat16() for name, tensor in held(mine).items()}
    assert compared(mine, engine)[1] == []
    name = "model.language_model.layers.0.self_attn.o_proj.weight"
    assert compared(mine | {name: mine[name] * 1.01}, engine)[1] == [name]


def cut(mine, share, heads):
    """The tensors as one of several processes holds them; `heads` are those of keys and values."""
    names = list(mine)
    place = "language_model.model.layers.0"

    def rows(name, count=share.size):
        return mine[name].chunk(count)[share.rank * count // share.size]

    each = min(share.size, heads)
    return {
        "visual.blocks.0.mlp.gate_up_proj.weight": torch.cat([rows(names[0]), rows(names[1])]),
        "language_model.model.embed_tokens.weight": rows(names[2]),
        f"{place}.self_attn.qkv_proj.weight": torch.cat(
            [rows(names[3]), rows(names[4], each), rows(names[5], each)]
        ),
        f"{place}.self_attn.o_proj.weight": mine[names[6]].chunk(share.size, 1)[share.rank],
    }


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_compares_its_own_share_of_a_matrix(rank, heads):
    mine, share = trained(), Share(rank, 2)
    engine = cut(mine, share, heads)
    assert compared(mine, engine, share) == ([name for name in mine if "norm" not in name], [])
    for name in mine:
        if "norm" not in name:
            assert compared(mine | {name: mine[name] + 1e-3}, engine, share)[1] == [name]
    other = cut(mine, Share(1 - rank, 2), heads)
    assert len(compared(mine, other, share)[1]) >= 5


def test_a_vision_tower_that_is_cut_by_heads_is_not_compared_by_rows():
    mine = {"model.visual.blocks.0.attn.qkv.weight": torch.randn(12, 4)}
    engine = {"visual.blocks.0.attn.qkv.weight": torch.randn(6, 4)}
    assert compared(mine, engine, Share(0, 2)) == ([], [])


def attention(*rows):
    """Queries, keys and values of so many rows."""
    names = (f"layers.0.self_attn.{part}_proj.weight" for part in "qkv")
    return {name: torch.zeros(count, 4) for name, count in zip(names, rows, strict=True)}


@pytest.mark.parametrize(
    ("rows", "total", "share"),
    [
        ((16, 10, 10), 2 + 6 + 6, Share(7, 8)),  # the last share would begin at row 6 of 10
        ((4, 10, 10), 0 + 6 + 6, Share(7, 8)),  # more processes than rows
    ],
)
def test_a_share_that_cannot_be_is_not_compared(rows, total, share):
    engine = {"layers.0.self_attn.qkv_proj.weight": torch.zeros(total, 4)}
    found, differing = compared(attention(*rows), engine, share)
    assert differing == []
    assert [name for name in found if ".q_proj" not in name] == []


def test_a_matrix_without_a_precision_of_weights_is_refused():
    mine = {"layers.0.weight": torch.zeros(2, 2)}
    seen = told(mine, WHOLE)
    for dtype in ("torch.nn", "torch.int8", "float32", ""):
        with pytest.raises(StageFailure, match=r"keeps layers\.0\.weight as .*, which") as caught:
            Holding.of(
                seen | {"dtypes": {"layers.0.weight": dtype}}, mine, {"layers.0.weight": (2, 2)}
            )
        assert caught.value.code is ErrorCode.SAMPLER_MISMATCH


def test_a_digest_of_a_large_matrix_is_of_rows_from_all_over_it(monkeypatch):
    monkeypatch.setattr(weights, "SAMPLED", 64)
    matrix = torch.zeros(1000, 8)
    before = weights.digest(matrix, torch.float32)
    seen = 0
    for row in range(1000):
        matrix[row] = 1
        seen += weights.digest(matrix, torch.float32) != before
        matrix[row] = 0
    assert seen == 8


def test_the_probe_is_spread_over_the_whole_model():
    mine = {f"layers.{number}.weight": torch.zeros(2, 2) for number in range(100)}
    probed, _ = compared(mine, mine)
    assert len(probed) == weights.PROBED
    assert (probed[0], probed[-1]) == ("layers.0.weight", "layers.99.weight")
    assert compared(mine, {}) == ([], [])


SERVER = {"engine": "vllm", "mode": "server", "serverUrl": "http://127.0.0.1:1"}


def grpo(**values):
    return GRPO.parse(
        {"dataset": {"name": "d"}, "rewards": [{"name": "format"}], "resources": {"gpusPerNode": 0}}
        | values
    )


def test_a_server_is_refused_where_weights_cannot_reach_it(vllm_of):
    vllm_of("0.31.0")
    with pytest.raises(StageFailure, match=r"rollout\.mode: weights reach .* over NCCL") as caught:
        settings.require_engine(grpo(rollout=SERVER))
    assert caught.value.code is ErrorCode.RESOURCES_MISSING
    settings.require_engine(grpo(rollout={"engine": "vllm", "temperature": 2}))
    settings.require_engine(grpo(rollout={"temperature": 3}))


def test_a_temperature_that_vllm_does_not_take_is_refused(vllm_of):
    vllm_of("0.31.0")
    with pytest.raises(StageFailure, match=r"rollout\.temperature: is 3, .* at most 2") as caught:
        settings.require_engine(grpo(rollout={"engine": "vllm", "temperature": 3}))
    assert caught.value.code is ErrorCode.INVALID_ORDER


def test_an_untested_vllm_is_refused(vllm_of):
    vllm_of("99.1.0+cu129")
    with pytest.raises(StageFailure, match=r"vLLM 99\.1\.0\+cu129 is installed, but TRL") as caught:
        settings.require_engine(grpo(rollout={"engine": "vllm"}))
    assert caught.value.code is ErrorCode.RESOURCES_MISSING


@pytest.fixture
def vllm_of(tmp_path, monkeypatch):
    """Makes the metadata of a vLLM of a version, found before any other."""

    def make(version):
        folder = tmp_path / f"vllm-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return make


def test_an_engine_gets_the_conversations_pixels_and_lengths(processor):
    conversation = Conversation(
        min_pixels=784, max_pixels=7840, max_prompt_tokens=200, max_completion_tokens=40
    )
    made = EngineSettings(grpo(precision="fp32"), conversation, "model", processor, images=3)
    assert made.engine == {
        "model": "model",
        "dtype": "float32",
        "enforce_eager": True,
        "limit_mm_per_prompt": {"image": 3, "video": 0},
        "mm_processor_kwargs": {"min_pixels": 784, "max_pixels": 7840},
    }
    assert made.sampling["bad_words"] == [
        f"<|{name}|>" for name in ("vision_start", "vision_end", "image_pad", "video_pad")
    ]
    chosen = settings.arguments(made.spec, conversation)
    assert chosen["vllm_max_model_length"] == 240
    assert chosen["vllm_enable_sleep_mode"] is False
    on_gpus = grpo(resources={"gpusPerNode": 1}, groupSize=4, microBatchSize=4)
    assert settings.arguments(on_gpus, conversation)["vllm_enable_sleep_mode"] is True
