"""Models and processors: what is loaded, what is refused, what is frozen."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from coldstart.spec import Conversation
from coldstart_trainer import model as models
from coldstart_trainer.model import ModelError


def copy(source, target):
    shutil.copytree(source, target)
    return target


def test_processor_is_bounded_by_the_conversation_and_pads_left(tiny_model):
    spec = Conversation(min_pixels=4 * 784, max_pixels=8 * 784)
    processor = models.load_processor(tiny_model, spec)
    assert processor.tokenizer.padding_side == "left"
    for size, tokens in [((28, 28), 4), ((2000, 1000), 8)]:
        made = processor(text=["<|image_pad|>"], images=[Image.new("RGB", size)])
        assert made["input_ids"][0].count(processor.image_token_id) == tokens


SIZES = [
    (1, 1),
    (28, 28),
    (27, 29),
    (42, 14),
    (3, 100),
    (100, 3),
    (2, 399),
    (640, 480),
    (1333, 801),
]


@pytest.mark.parametrize("pixels", [(784, 16 * 784), (262_144, 1_204_224)])
def test_image_tokens_are_those_of_the_processor(tiny_model, pixels):
    spec = Conversation(min_pixels=pixels[0], max_pixels=pixels[1])
    processor = models.load_processor(tiny_model, spec)
    random = np.random.default_rng(0)
    sizes = SIZES + [tuple(map(int, random.integers(5, 900, 2))) for _ in range(12)]
    for width, height in sizes:
        made = processor(text=["<|image_pad|>"], images=[Image.new("RGB", (width, height))])
        counted = made["input_ids"][0].count(processor.image_token_id)
        assert models.image_tokens(processor, width, height) == counted, (width, height)


def test_an_image_too_long_for_the_model_is_refused_as_the_processor_does(processor):
    with pytest.raises(ValueError, match="aspect ratio"):
        models.image_tokens(processor, 4000, 10)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (None, "holds no config.json"),
        ("{", "is not JSON"),
        ('{"model_type": "llama"}', "model_type 'llama' is not supported"),
        ("[]", "model_type None"),
    ],
)
def test_directories_that_are_no_supported_model(tmp_path, config, words, conversation):
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    for load in (
        lambda: models.load_processor(tmp_path, conversation),
        lambda: models.load_model(tmp_path, precision="fp32"),
    ):
        with pytest.raises(ModelError, match=words):
            load()


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("processor_config.json", "has no image processor"),
        ("chat_template.jinja", "has no chat template"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_a_processor_with_a_file_missing(tiny_model, tmp_path, conversation, gone, words):
    directory = copy(tiny_model, tmp_path / "model")
    (directory / gone).unlink()
    with pytest.raises(ModelError, match=words):
        models.load_processor(directory, conversation)


def test_the_published_layout_of_processor_files_is_read(tiny_model, tmp_path, conversation):
    """Qwen2.5-VL has its image settings in `preprocessor_config.json`, its template in JSON."""
    directory = copy(tiny_model, tmp_path / "model")
    settings = json.loads((directory / "processor_config.json").read_text())["image_processor"]
    (directory / "processor_config.json").unlink()
    (directory / "preprocessor_config.json").write_text(
        json.dumps(settings | {"processor_class": "Qwen2_5_VLProcessor"})
    )
    template = (directory / "chat_template.jinja").read_text()
    (directory / "chat_template.jinja").unlink()
    (directory / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    made = models.load_processor(directory, conversation)
    assert made.chat_template == template
    assert models.image_tokens(made, 84, 28) == 3


def test_weights_come_in_the_precision_asked_for(tiny_model):
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = models.load_model(tiny_model, precision=precision, device="cpu")
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        assert not model.training


def test_missing_torn_and_misshapen_weights_are_refused(tiny_model, tmp_path):
    """The library puts random values in place of a missing weight; we do not go on with them."""
    directory = copy(tiny_model, tmp_path / "model")
    file = directory / "model.safetensors"
    weights = load_file(file)
    name = next(key for key in weights if "q_proj.weight" in key)

    save_file({k: v for k, v in weights.items() if k != name}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="1 weights are missing"):
        models.load_model(directory, precision="fp32")

    save_file(weights | {name: torch.zeros(3, 3)}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=r"q_proj|cannot be loaded"):
        models.load_model(directory, precision="fp32")

    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ModelError, match="have 1,000 bytes: one of them is torn"):
        models.load_model(directory, precision="fp32")

    file.unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        models.load_model(directory, precision="fp32")


def tiny(kind):
    """A model of a supported architecture with next to no parameters."""
    text = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 3.0, "mrope_section": [1, 1, 2]},
        "tie_word_embeddings": False,
    }
    vision = {
        "qwen2_vl": {"embed_dim": 16, "hidden_size": 16, "depth": 1, "num_heads": 2},
        "qwen2_5_vl": {"hidden_size": 16, "out_hidden_size": 16, "depth": 1, "num_heads": 2},
        "qwen3_vl": {
            "hidden_size": 16,
            "out_hidden_size": 16,
            "depth": 2,
            "num_heads": 2,
            "intermediate_size": 16,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
    }[kind]
    config = AutoConfig.for_model(
        kind, text_config=text, vision_config=vision, tie_word_embeddings=False
    )
    return AutoModelForImageTextToText.from_config(config)


MODULES = {
    "vision": ("patch_embed", "blocks", "pos_embed"),
    "aligner": ("merger", "deepstack_merger_list"),
    "language": ("language_model", "lm_head"),
}


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_every_parameter_belongs_to_exactly_one_part(kind):
    model = tiny(kind)
    for name, _ in model.named_parameters():
        owners = [
            part
            for part, modules in MODULES.items()
            if any(f".{module}." in f".{name}" for module in modules)
        ]
        assert owners == [models.part_of(name)], name
    counts = models.parameter_counts(model)
    assert all(counts.values())
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("parts", [(), ("vision",), ("vision", "aligner"), ("language",)])
def test_frozen_parts_are_not_trained_and_the_others_are(tiny_model, parts):
    model = models.load_model(tiny_model, precision="fp32")
    trained = models.freeze(model, parts)
    assert set(trained) == set(models.PARTS) - set(parts)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (models.part_of(name) not in parts)
    # Freezing again replaces what was frozen before.
    assert sum(models.freeze(model, ()).values()) == sum(p.numel() for p in model.parameters())


def test_freezing_everything_is_refused(tiny_model):
    model = models.load_model(tiny_model, precision="fp32")
    with pytest.raises(ModelError, match="nothing to train"):
        models.freeze(model, ("vision", "aligner", "language"))


def test_image_tokens_are_known_by_id(processor):
    ids = models.image_token_ids(processor)
    assert processor.image_token_id in ids
    assert len(ids) == 4


def test_other_architectures_use_their_own_processor_and_patches(tiny_model, tmp_path):
    """Qwen3-VL has patches of 16 pixels, so an image token is 32 x 32 of them."""
    directory = copy(tiny_model, tmp_path / "model")
    (directory / "config.json").write_text('{"model_type": "qwen3_vl"}')
    settings = json.loads((directory / "processor_config.json").read_text())
    settings["image_processor"]["patch_size"] = 16
    (directory / "processor_config.json").write_text(json.dumps(settings))
    made = models.load_processor(directory, Conversation(min_pixels=1024, max_pixels=50 * 1024))
    assert type(made).__name__ == "Qwen3VLProcessor"
    for width, height in ((32, 32), (100, 250), (900, 700)):
        ids = made(text=["<|image_pad|>"], images=[Image.new("RGB", (width, height))])["input_ids"]
        assert models.image_tokens(made, width, height) == ids[0].count(made.image_token_id)
