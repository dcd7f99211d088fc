"""The memory estimate against what PyTorch really makes, on small models of every architecture."""

import contextlib

import pytest
import torch
import transformers

from coldstart.memory import activations, estimate, shapes
from coldstart.memory.activations import AUTOCAST, PLAIN_BF16, PLAIN_FP32, Load
from coldstart.memory.states import Training
from coldstart_trainer import training as training_stage
from coldstart_trainer.model import parameter_counts
from coldstart_trainer.shared import attention, forward
from coldstart_trainer.shared.rows import Batch, pack

CLASSES = {
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "qwen2_vl": ("Qwen2VLConfig", "Qwen2VLForConditionalGeneration"),
    "qwen2_5_vl": ("Qwen2_5_VLConfig", "Qwen2_5_VLForConditionalGeneration"),
    "qwen3_vl": ("Qwen3VLConfig", "Qwen3VLForConditionalGeneration"),
}
ROWS, TOKENS, IMAGE_TOKENS = 2, 256, 64
IMAGE, VIDEO, START, END = 5, 6, 3, 4
PIXELS = ("pixel_values", "image_grid_thw")


def built(kind, **config):
    names = CLASSES[kind]
    return getattr(transformers, names[1])(getattr(transformers, names[0])(**config))


def small(kind):
    """A model of a few layers whose sizes are all different, in the nested form of a config."""
    text = {
        "vocab_size": 400,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    head = {"head_dim": 24} if kind in {"qwen3", "qwen3_vl"} else {}
    if not kind.endswith("_vl"):
        return built(kind, **text, **head, tie_word_embeddings=True)
    section = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    if head:
        section["mrope_section"] = [4, 4, 4]
    vision = {
        "qwen2_vl": {"embed_dim": 32, "hidden_size": 64},
        "qwen2_5_vl": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        "qwen3_vl": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "out_hidden_size": 64,
            "deepstack_visual_indexes": [0],
            "num_position_embeddings": 64,
        },
    }[kind]
    return built(
        kind,
        text_config={**text, **head, "rope_parameters": section},
        vision_config={"depth": 3, "num_heads": 2, **vision},
        tie_word_embeddings=True,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
    )


def batch(shape, dtype):
    """Two rows, one a token shorter than the other, with an image each if the model sees."""
    ids = torch.randint(10, 400, (ROWS, TOKENS))
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    found = {"input_ids": ids, "attention_mask": mask}
    if shape.vision:
        side = int((IMAGE_TOKENS * shape.vision.patches) ** 0.5)
        ids[:, 1], ids[:, 2 : 2 + IMAGE_TOKENS] = START, IMAGE
        patches = ROWS * IMAGE_TOKENS * shape.vision.patches
        found |= {
            "pixel_values": torch.randn(patches, shape.vision.pixel_values, dtype=dtype),
            "image_grid_thw": torch.tensor([[1, side, side]] * ROWS),
            "mm_token_type_ids": (ids == IMAGE).int(),
        }
    return found


def load_of(shape, scored=0):
    images = ROWS * IMAGE_TOKENS if shape.vision else 0
    return Load(ROWS * TOKENS, images, scored, masked=ROWS * TOKENS**2)


def _backbone(model, inputs):
    return model.model(**inputs, use_cache=False)


def saved_bytes(model, inputs, *, autocast=False, forward=_backbone):
    """What autograd keeps of a forward pass, each storage once, the model's own left out."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage
        return tensor

    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        forward(model, inputs)
    return sum(storage.nbytes() for storage in found.values())


@pytest.mark.parametrize(
    "name",
    [
        "Qwen/Qwen2.5-VL-3B-Instruct",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        "Qwen/Qwen2.5-VL-32B-Instruct",
        "Qwen/Qwen2-VL-2B-Instruct",
        "Qwen/Qwen3-VL-4B-Instruct",
        "Qwen/Qwen3-VL-8B-Instruct",
        "Qwen/Qwen2.5-7B-Instruct",
        "Qwen/Qwen3-1.7B",
    ],
)
def test_the_numbers_of_a_published_model_are_those_that_transformers_builds(name):
    config = shapes.published()[name]
    with torch.device("meta"):
        model = built(config["model_type"], **config)
    assert shapes.shape(config).parts == parameter_counts(model)


def test_the_numbers_of_the_quickstarts_model_are_read_from_its_directory(tiny_model):
    model = transformers.AutoModelForImageTextToText.from_pretrained(tiny_model)
    shape = shapes.read(tiny_model / "config.json")
    assert shape.parts == parameter_counts(model)
    assert shapes.known(str(tiny_model), tiny_model) == shape


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize(
    ("widths", "dtype", "tolerance"),
    [
        pytest.param(PLAIN_FP32, torch.float32, 0.02, id="fp32"),
        pytest.param(PLAIN_BF16, torch.bfloat16, 0.02, id="bf16"),
        # A CPU's autocast leaves layer norms in bf16, which a GPU's computes in fp32.
        pytest.param(AUTOCAST, torch.float32, 0.05, id="autocast"),
    ],
)
def test_what_autograd_keeps_is_what_is_counted(kind, widths, dtype, tolerance):
    torch.manual_seed(0)
    model = small(kind).to(dtype).train()
    shape = shapes.shape(model.config.to_dict())
    measured = saved_bytes(model, batch(shape, dtype), autocast=widths.autocast)
    counted = activations.kept(
        shape, load_of(shape), widths, checkpointing=False, frozen=frozenset()
    )
    if widths.autocast:
        counted += 2 * (shape.parameters - shape.language.embedding)
    assert counted == pytest.approx(measured, rel=tolerance)


def test_with_checkpointing_each_layer_keeps_its_input_alone():
    torch.manual_seed(0)
    model = small("qwen2_5_vl").train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    shape = shapes.shape(model.config.to_dict())
    load = load_of(shape)
    measured = saved_bytes(model, batch(shape, torch.float32))
    counted = activations.kept(shape, load, PLAIN_FP32, checkpointing=True, frozen=frozenset())
    again = max(
        activations.layer(shape.language, PLAIN_FP32) * load.tokens
        + 4 * activations.attention(shape.language, load),
        activations.block(shape.vision, PLAIN_FP32) * load.image_tokens * shape.vision.patches,
    )
    # The rotary angles and the mask are kept, too, but not by autograd: the hooks miss them.
    assert counted - again == pytest.approx(measured, rel=0.06)


def test_a_packed_row_keeps_what_is_counted():
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(0)
    model = small("qwen2_5_vl").train()
    add_fused_lm_head(model)
    forward.prepare(model)
    shape = shapes.shape(model.config.to_dict())
    count, prompt, completion = 6, TOKENS, 96
    found = batch(shape, torch.float32)
    asked = found["input_ids"][:1]
    images = [{name: found[name][: len(found[name]) // ROWS] for name in PIXELS}]
    packed = pack(
        model,
        Batch(
            prompt_ids=asked.expand(count, -1),
            prompt_mask=torch.ones(count, prompt, dtype=torch.long),
            completion_ids=torch.randint(10, 400, (count, completion)),
            completion_mask=torch.ones(count, completion, dtype=torch.long),
            share=count,
            images=images,
        ),
    )
    measured = saved_bytes(model, packed.row, forward=forward.score)
    tokens = packed.row.layout.length
    assert tokens == prompt - 1 + count * completion
    load = Load(tokens, IMAGE_TOKENS, count * completion, seen=tokens + count * (prompt - 1))
    counted = activations.kept(shape, load, PLAIN_FP32, checkpointing=False, frozen=frozenset())
    counted += load.scored * shape.language.hidden * 4  # what the head reads
    assert counted == pytest.approx(measured, rel=0.08)


def test_the_estimate_has_the_trainers_constants():
    assert estimate.VARLEN_FROM == attention.VARLEN_FROM
    assert estimate.PROBE_BATCH == training_stage.PROBE_BATCH


def test_a_frozen_tower_keeps_nothing_but_what_its_merger_learns_from():
    torch.manual_seed(0)
    model = small("qwen2_5_vl").train()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name or "merger" in name)
    shape = shapes.shape(model.config.to_dict())
    measured = saved_bytes(model, batch(shape, torch.float32))
    frozen = frozenset({"vision"})
    counted = activations.kept(
        shape, load_of(shape), PLAIN_FP32, checkpointing=False, frozen=frozen
    )
    assert counted == pytest.approx(measured, rel=0.02)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_an_update_is_estimated_within_a_tenth(checkpointing):
    """All tensors that live at once, as PyTorch's own tracker sees them, over two updates.

    Without the fused head: on a CPU it computes in steps what one kernel does on a GPU.
    """
    from torch.distributed._tools.mem_tracker import MemTracker

    torch.manual_seed(0)
    model = small("qwen2_5_vl").train()
    shape = shapes.shape(model.config.to_dict())
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters())
    inputs = batch(shape, torch.float32)
    tracker = MemTracker()
    tracker.track_external(model, optimizer)
    with tracker:
        for _ in range(2):
            model.model(**inputs, use_cache=False).last_hidden_state.sum().backward()
            optimizer.step()
            tracker.reset_mod_stats()
    (peak,) = tracker.get_tracker_snapshot("peak").values()

    states, load = training(shape).states, load_of(shape)
    passing = activations.kept(
        shape, load, PLAIN_FP32, checkpointing=checkpointing, frozen=frozenset()
    ) + activations.working(shape, load, PLAIN_FP32)
    print(peak, states, passing)
    estimated = states.weights + states.gradients + states.optimizer + passing
    assert estimated == pytest.approx(peak["Total"], rel=0.1)


def training(shape, **changes):
    plain = {
        "trained": shape.parameters,
        "zero": 0,
        "offload": False,
        "world": 1,
        "bf16": False,
        "gpu": False,
        "reference": False,
    }
    return Training(shape=shape, **(plain | changes))


def test_gradients_and_optimizer_are_as_large_as_adamw_makes_them():
    model = small("qwen3_vl")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("visual" not in name)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    shape = shapes.shape(model.config.to_dict())
    states = training(shape, trained=shape.parts["language"]).states
    moments = [v for state in optimizer.state.values() for v in state.values() if v.dim()]
    assert states.weights == sum(p.nbytes for p in model.parameters())
    assert states.gradients == sum(p.grad.nbytes for p in trained)
    assert states.optimizer == sum(moment.nbytes for moment in moments)


@pytest.mark.parametrize("autocast", [False, True])
def test_the_cache_is_as_large_as_generation_makes_it(autocast):
    model = small("qwen3_vl").eval()
    shape = shapes.shape(model.config.to_dict())
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    with torch.no_grad(), context:
        made = model(**batch(shape, torch.float32), use_cache=True).past_key_values
    measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in made.layers)
    widths = AUTOCAST if autocast else PLAIN_FP32
    assert activations.cache(shape.language, widths) * ROWS * TOKENS == measured


def test_pixels_are_as_large_as_the_processor_makes_them(tiny_model, processor):
    from PIL import Image

    shape = shapes.read(tiny_model / "config.json")
    made = processor(text=["<|image_pad|>"], images=[Image.new("RGB", (112, 84))])
    tokens = made["input_ids"][0].count(processor.image_token_id)
    assert tokens == 112 * 84 // shape.vision.pixels
    size = tokens * shape.vision.patches * shape.vision.pixel_values * 4
    assert torch.as_tensor(made["pixel_values"]).nbytes == size
