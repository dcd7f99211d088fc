"""The shape of a model, and how many numbers it has, from its `config.json`; no weights are read.

Counted as `transformers` 5.17 builds the models; a test compares the counts with its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from coldstart.foreign import parsed

CONFIG = "config.json"


class ShapeError(ValueError):
    """A model whose shape is not known; the message says why."""


@dataclass(frozen=True)
class Language:
    """A decoder as in Qwen2 and Qwen3: RMS norms, grouped queries, a gated MLP."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int
    tied: bool
    """The output head is the embedding."""
    biases: Literal["none", "qkv", "qkvo"]
    """Which projections of the attention have a bias."""
    head_norms: bool
    """Queries and keys are normalised (Qwen3)."""

    @property
    def queries(self) -> int:
        """Width of all queries."""
        return self.heads * self.head

    @property
    def keys(self) -> int:
        """Width of all keys, or of all values."""
        return self.kv_heads * self.head

    @property
    def embedding(self) -> int:
        """Numbers of the embedding; of the head, too, where it is another matrix."""
        return self.vocabulary * self.hidden

    @property
    def layer(self) -> int:
        """Numbers of one layer."""
        h, q, k = self.hidden, self.queries, self.keys
        biases = {"none": 0, "qkv": q + 2 * k, "qkvo": q + 2 * k + h}[self.biases]
        norms = 2 * h + (2 * self.head if self.head_norms else 0)
        return 2 * h * q + 2 * h * k + biases + 3 * h * self.intermediate + norms

    @property
    def parameters(self) -> int:
        """Numbers of the whole, a tied head counted once."""
        heads = 1 if self.tied else 2
        return heads * self.embedding + self.layers * self.layer + self.hidden


@dataclass(frozen=True)
class Vision:
    """A vision tower as in Qwen2-VL to Qwen3-VL, with what maps its features to the decoder."""

    depth: int
    hidden: int
    intermediate: int
    heads: int
    patch: int
    temporal: int
    merge: int
    out: int
    kind: Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
    positions: int = 0
    """Learnt positions (Qwen3-VL)."""
    deepstack: int = 0
    """Further mergers, from layers in between (Qwen3-VL)."""

    @property
    def pixel_values(self) -> int:
        """Numbers of a patch before it is embedded: its pixels in all colours and frames."""
        return 3 * self.temporal * self.patch**2

    @property
    def patches(self) -> int:
        """Patches that become one image token."""
        return self.merge**2

    @property
    def pixels(self) -> int:
        """Pixels that become one image token."""
        return (self.patch * self.merge) ** 2

    @property
    def gated(self) -> bool:
        """RMS norms and a gated MLP, as in the decoder; else layer norms and two matrices."""
        return self.kind == "qwen2_5_vl"

    @property
    def tower(self) -> int:
        """Numbers of the tower: what `freeze: [vision]` freezes."""
        h, f = self.hidden, self.intermediate
        mlp = 3 * h * f + 2 * f + h if self.gated else 2 * h * f + f + h
        norms = 2 * h if self.gated else 4 * h
        block = 4 * h * h + 4 * h + mlp + norms
        bias = h if self.kind == "qwen3_vl" else 0
        return self.pixel_values * h + bias + self.positions * h + self.depth * block

    @property
    def aligner(self) -> int:
        """Numbers of the mergers: what `freeze: [aligner]` freezes."""
        wide = self.patches * self.hidden
        mlp = wide * wide + wide + wide * self.out + self.out
        norm = self.hidden if self.gated else 2 * self.hidden
        return mlp + norm + self.deepstack * (mlp + 2 * wide)


@dataclass(frozen=True)
class Shape:
    """A model that is supported."""

    kind: str
    """Its `model_type`."""
    language: Language
    vision: Vision | None

    @property
    def parts(self) -> Mapping[str, int]:
        """Numbers of each part, as `freeze` names them; tied weights count once."""
        vision = self.vision
        return {
            "vision": vision.tower if vision else 0,
            "aligner": vision.aligner if vision else 0,
            "language": self.language.parameters,
        }

    @property
    def parameters(self) -> int:
        """Numbers of the whole model."""
        return sum(self.parts.values())


_LANGUAGE: Mapping[str, Mapping[str, Any]] = {
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"head_dim": 128},
    "qwen2_vl": {},
    "qwen2_5_vl": {},
    "qwen3_vl": {"head_dim": 128},
}
"""What `transformers` takes for a key of the decoder that a config leaves out, and no other."""

_VISION: Mapping[str, Mapping[str, Any]] = {
    "qwen2_vl": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "patch_size": 14},
    "qwen2_5_vl": {"depth": 32, "intermediate_size": 3420, "patch_size": 14},
    "qwen3_vl": {
        "depth": 27,
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "patch_size": 16,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": (8, 16, 24),
    },
}
_TOWER = {"num_heads": 16, "temporal_patch_size": 2, "spatial_merge_size": 2}
"""The same for the tower, whose keys a saved config leaves out where they are as usual."""


def known(name: str, directory: Path) -> Shape:
    """The shape of a run's base model.

    Args:
        name: `model.name` of the spec.
        directory: what a local model's path is relative to.

    Raises:
        ShapeError: it is neither there nor one whose shape is published with this package.
    """
    local = directory / Path(name).expanduser()
    if (local / CONFIG).is_file():
        return read(local / CONFIG)
    if name in published():
        return shape(published()[name])
    raise ShapeError(f"there is no {local / CONFIG}, and the shape of {name} is not known")


def read(path: Path) -> Shape:
    """The shape that a `config.json` describes.

    Raises:
        ShapeError: it cannot be read, or is of another architecture.
    """
    try:
        config = parsed(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ShapeError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ShapeError(f"{path} holds no mapping")
    try:
        return shape(config)
    except ShapeError as error:
        raise ShapeError(f"{path}: {error}") from error


def shape(config: Mapping[str, Any]) -> Shape:
    """The shape of a config: the hub's flat form, or the nested one that is saved today.

    Raises:
        ShapeError: a key is missing or of another type, or the architecture is another one.
    """
    kind = str(config.get("model_type"))
    if kind not in _LANGUAGE:
        raise ShapeError(f"models of type {kind} are not estimated")
    text = _section(config, "text_config") or config
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    language = _language({**_LANGUAGE[kind], **text}, kind, bool(tied))
    vision = _vision(config, kind, language) if kind in _VISION else None
    return Shape(kind, language, vision)


@cache
def published() -> Mapping[str, Mapping[str, Any]]:
    """Configs of models on the hub, reduced to what makes the shape, by the model's name."""
    text = files("coldstart").joinpath("memory", "published.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def _language(keys: Mapping[str, Any], kind: str, tied: bool) -> Language:
    hidden, heads = _number(keys, "hidden_size"), _number(keys, "num_attention_heads")
    newer = kind in {"qwen3", "qwen3_vl"}
    biases: Literal["none", "qkv", "qkvo"] = "qkv"
    if newer:
        biases = "qkvo" if keys.get("attention_bias") else "none"
    return Language(
        layers=_number(keys, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_number(keys, "intermediate_size"),
        heads=heads,
        kv_heads=_number(keys, "num_key_value_heads"),
        head=_number(keys, "head_dim") if newer else hidden // heads,
        vocabulary=_number(keys, "vocab_size"),
        tied=tied,
        biases=biases,
        head_norms=newer,
    )


def _vision(config: Mapping[str, Any], kind: Any, language: Language) -> Vision:
    keys = {**_TOWER, **_VISION[kind], **_section(config, "vision_config")}
    out = "hidden_size" if kind == "qwen2_vl" else "out_hidden_size"
    hidden = _number(keys, "embed_dim" if kind == "qwen2_vl" else "hidden_size")
    older = kind == "qwen2_vl"
    return Vision(
        depth=_number(keys, "depth"),
        hidden=hidden,
        intermediate=(
            hidden * _number(keys, "mlp_ratio") if older else _number(keys, "intermediate_size")
        ),
        heads=_number(keys, "num_heads"),
        patch=_number(keys, "patch_size"),
        temporal=_number(keys, "temporal_patch_size"),
        merge=_number(keys, "spatial_merge_size"),
        out=_number({out: language.hidden, **keys}, out),
        kind=kind,
        positions=_number(keys, "num_position_embeddings") if kind == "qwen3_vl" else 0,
        deepstack=len(_indexes(keys)) if kind == "qwen3_vl" else 0,
    )


def _indexes(keys: Mapping[str, Any]) -> Sequence[Any]:
    found = keys["deepstack_visual_indexes"]
    if not isinstance(found, list | tuple):
        raise ShapeError(f"deepstack_visual_indexes must be a list (is {found!r:.40})")
    return found


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name) or {}
    if not isinstance(found, dict):
        raise ShapeError(f"{name} must be a mapping (is {found!r:.40})")
    return found


def _number(keys: Mapping[str, Any], name: str) -> int:
    value = keys.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ShapeError(f"{name} must be a whole number above 0 (is {value!r:.40})")
    return value
