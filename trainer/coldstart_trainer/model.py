"""Models and processors as directories hold them: loaded, frozen by parts, counted; not trained."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from coldstart.foreign import parsed
from coldstart.spec import Conversation, Part
from coldstart_trainer import conversation as chat
from coldstart_trainer.architecture import (
    ARCHITECTURES,
    PARTS,
    TEXT_ARCHITECTURES,
    ModelError,
    model_type,
    require_trainable,
)
from coldstart_trainer.plain import require_weights
from coldstart_trainer.template import require_bounded

__all__ = [
    "PARTS",
    "ModelError",
    "freeze",
    "image_only_class",
    "image_token_ids",
    "image_tokens",
    "load_model",
    "load_processor",
    "model_type",
    "parameter_counts",
    "part_of",
    "require_trainable",
    "sees_images",
    "tokenizer_of",
]

_TRUST = {"local_files_only": True, "trust_remote_code": False}
"""A model is data: no code of its directory is run, and nothing is fetched for it."""

_IMAGE_SETTINGS = ("preprocessor_config.json", "processor_config.json")


def load_processor(directory: Path, conversation: Conversation) -> Any:
    """The processor of a model directory, left-padding; for a text model that is its tokenizer.

    Either is what TRL's trainers take as `processing_class`. That of a vision-language model has
    its pixels bounded by the conversation. It is the stock class without its video half, which no
    stage uses and which cannot be loaded where torchvision is not: images are then resized by
    Pillow instead.

    Raises:
        ModelError: the directory has no usable processor, or another architecture.
    """
    kind = model_type(directory)
    if kind in ARCHITECTURES and not any((directory / name).is_file() for name in _IMAGE_SETTINGS):
        raise ModelError(
            f"{directory} has no image processor ({' or '.join(_IMAGE_SETTINGS)}): "
            "copy the processor's files of the base model into it"
        )
    if not any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        # The library would make one with an empty vocabulary.
        raise ModelError(
            f"{directory} has no tokenizer (tokenizer.json): "
            "copy the tokenizer's files of the base model into it"
        )
    try:
        processor = _processor(directory, kind, conversation)
    except MemoryError:
        raise
    except Exception as error:
        # The library and its Rust report a damaged settings file in whatever way it breaks them.
        raise ModelError(f"{directory}: the processor cannot be loaded: {_line(error)}") from error
    _check_processor(processor, directory)
    _try_template(processor, directory, conversation)
    tokenizer_of(processor).padding_side = "left"
    return processor


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of what `load_processor` gives, which for a text model is the tokenizer."""
    return getattr(processor, "tokenizer", processor)


def sees_images(processor: Any) -> bool:
    """Whether it can take images: whether the model is a vision-language model."""
    return hasattr(processor, "image_processor")


def load_model(
    directory: Path, *, precision: Literal["bf16", "fp32"], device: torch.device | str | None = None
) -> Any:
    """The model of a directory, in evaluation mode, with weights in the given precision.

    Args:
        directory: a plain Hugging Face directory.
        precision: of the weights. Training takes `fp32`: master weights, with bf16 compute left
            to the trainer's autocast.
        device: where to put it; None leaves it where it was loaded.

    Raises:
        ModelError: another architecture, weights that are missing, torn or of another shape.
    """
    kind = model_type(directory)
    factory: Any = transformers.AutoModelForImageTextToText
    if kind in TEXT_ARCHITECTURES:
        factory = transformers.AutoModelForCausalLM
    require_weights(directory)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    try:
        loaded: Any = factory.from_pretrained(
            directory, dtype=dtype, output_loading_info=True, use_safetensors=True, **_TRUST
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        # A missing, torn or foreign file surfaces in whatever way it breaks the library.
        raise ModelError(f"{directory}: the weights cannot be loaded: {_line(error)}") from error
    model, report = loaded
    missing = [*report["missing_keys"], *report.get("mismatched_keys", ())]
    if missing:
        # The library would go on with random values in their place, after a warning.
        raise ModelError(
            f"{directory}: {len(missing)} weights are missing or of another shape, such as "
            f"{min(map(str, missing))}"
        )
    return model if device is None else model.to(device)


def part_of(parameter: str) -> Part:
    """The part that a parameter belongs to, by its name in the loaded model.

    `aligner`: what maps image features into the language model (`visual.merger`, and Qwen3-VL's
    `visual.deepstack_merger_list`); `vision`: the rest of `visual`; `language`: all else, the
    embeddings and the output head included.
    """
    names = parameter.split(".")
    if "visual" not in names:
        return "language"
    below = names[names.index("visual") + 1]
    return "aligner" if below in ("merger", "deepstack_merger_list") else "vision"


def freeze(model: Any, parts: Iterable[Part]) -> dict[Part, int]:
    """Train every part but these.

    Returns:
        How many numbers each part that is trained has.

    Raises:
        ModelError: nothing would be left to train.
    """
    frozen = set(parts)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) not in frozen)
    trained = {part: n for part, n in parameter_counts(model).items() if part not in frozen}
    if not any(trained.values()):
        raise ModelError(f"{', '.join(sorted(frozen))} are frozen: there is nothing to train")
    return trained


def parameter_counts(model: Any) -> dict[Part, int]:
    """How many numbers each part has; tied weights count once."""
    counts: dict[Part, int] = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        # ZeRO-3 leaves an empty shard in the parameter and the true size beside it.
        counts[part_of(name)] += int(getattr(parameter, "ds_numel", parameter.numel()))
    return counts


def image_token_ids(processor: Any) -> list[int]:
    """Tokens that stand for pixels: a response that held one would be read as an image.

    There are none for a text model, whatever names its vocabulary has.
    """
    if not sees_images(processor):
        return []
    vocabulary = tokenizer_of(processor).get_vocab()
    names = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    return [vocabulary[name] for name in names if name in vocabulary]


def image_tokens(processor: Any, width: int, height: int) -> int:
    """Tokens that an image of this size becomes, without looking at its pixels.

    Raises:
        ValueError: it is more than 200 times as long as wide, which the model's own resizing
            (`smart_resize`) refuses.
    """
    images = processor.image_processor
    return int(images.get_number_of_image_patches(height, width, {})) // int(images.merge_size**2)


@cache
def _has_torchvision() -> bool:
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError, RuntimeError):
        # A build for another torch is found, but fails: `operator torchvision::nms does not exist`.
        return False
    return True


def _processor(directory: Path, kind: str, conversation: Conversation) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, **_TRUST)
    if kind in TEXT_ARCHITECTURES:
        return tokenizer
    backend: Any = Qwen2VLImageProcessorPil
    if _has_torchvision():
        backend = transformers.Qwen2VLImageProcessor
    images = backend.from_pretrained(
        directory,
        min_pixels=conversation.min_pixels,
        max_pixels=conversation.max_pixels,
        **_TRUST,
    )
    template = _chat_template(directory) or tokenizer.chat_template
    return image_only_class(kind)(images, tokenizer, chat_template=template)


@cache
def image_only_class(kind: str) -> type[Any]:
    """The stock processor class without its video half.

    It keeps the stock name, which `save_pretrained` writes as `processor_class`: from a name that
    it does not know, `AutoProcessor` returns the bare tokenizer and says nothing.
    """
    name = ARCHITECTURES[kind]
    stock: type[Any] = getattr(transformers, name)

    def start(
        self: Any,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
    ) -> None:
        stock.__init__(self, image_processor, tokenizer, None, chat_template=chat_template)

    return type(name, (stock,), {"__init__": start, "__module__": stock.__module__})


def _chat_template(directory: Path) -> str | None:
    jinja, legacy = directory / "chat_template.jinja", directory / "chat_template.json"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    if legacy.is_file():
        found = parsed(legacy.read_bytes())
        template = found.get("chat_template") if isinstance(found, dict) else None
        return str(template) if template else None
    return None


def _line(error: Exception) -> str:
    """What an error of a library says, and of which kind it is where that says more."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {text}"


def _try_template(processor: Any, directory: Path, conversation: Conversation) -> None:
    """Refuse a chat template that cannot write a prompt, before it is asked for thousands."""
    messages = chat.prompt("1 + 1?", int(sees_images(processor)), conversation)
    try:
        template = processor.chat_template
        # Of several the library takes that of this name, or none.
        template = template.get("default") if isinstance(template, dict) else template
        require_bounded(str(template), json.dumps(messages))
        prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        tokenizer_of(processor)(prompt)
    except Exception as error:  # a template is foreign code in a sandbox
        raise ModelError(
            f"{directory}: its chat template or tokenizer cannot be used: {_line(error)}"
        ) from error


def _check_processor(processor: Any, directory: Path) -> None:
    if not processor.chat_template:
        raise ModelError(f"{directory} has no chat template: copy chat_template.jinja into it")
    if sees_images(processor) and "<|image_pad|>" not in tokenizer_of(processor).get_vocab():
        raise ModelError(f"{directory}: its tokenizer has no token <|image_pad|>")
