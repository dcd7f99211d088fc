"""Whether an engine in this process has the trainer's weights: a few tensors, read back from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

PROBED = 8
"""How many tensors are compared: spread over the model, so that a half-done copy shows too."""

_PREFIXES = (
    ("model.language_model.", "language_model.model."),
    ("model.visual.", "visual."),
    ("lm_head.", "language_model.lm_head."),
)
"""Beginnings of names, in a vision-language model of transformers and in vLLM."""

_FUSED = {
    "q_proj": ("qkv_proj", "first"),
    "v_proj": ("qkv_proj", "last"),
    "gate_proj": ("gate_up_proj", "first"),
    "up_proj": ("gate_up_proj", "last"),
}
"""What vLLM keeps as rows of a larger matrix, and where in it."""


@dataclass(frozen=True)
class Share:
    """Which part of each matrix this process's engine holds (tensor parallelism)."""

    rank: int = 0
    size: int = 1


def matching(
    name: str, mine: torch.Tensor, held: Mapping[str, torch.Tensor], share: Share
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A weight's numbers in the trainer and in the engine, in one shape.

    Args:
        name: the weight's name in the trainer's model.
        mine: the weight.
        held: the engine's weights, by its names.
        share: what this process's engine holds.

    Returns:
        None where the engine keeps it in a way that is not compared.
    """
    place = _in_engine(name)
    if share.size > 1 and "qkv" in place:
        return None  # cut by heads, not by rows
    if place in held:
        return _same_shape(mine, held[place], share)
    for part, (fused, end) in _FUSED.items():
        larger = held.get(place.replace(f".{part}.", f".{fused}."))
        if f".{part}." in place and larger is not None and share.size == 1:
            rows = mine.shape[0]
            return mine, larger[:rows] if end == "first" else larger[-rows:]
    return None


def comparable(
    shapes: Iterable[tuple[str, torch.Size]], held: Mapping[str, torch.Tensor], share: Share
) -> list[str]:
    """The weights to compare, by their names in the trainer: matrices, spread over the model."""
    found = [
        name
        for name, shape in shapes
        if len(shape) > 1
        and matching(name, torch.empty(shape, device="meta"), held, share) is not None
    ]
    last = len(found) - 1
    picked = {round(number * last / (PROBED - 1)) for number in range(PROBED)} if found else ()
    return [found[index] for index in sorted(picked)]


def equal(name: str, mine: torch.Tensor, held: Mapping[str, torch.Tensor], share: Share) -> bool:
    """Whether the engine's numbers of a comparable weight are the trainer's, in its precision."""
    pair = matching(name, mine, held, share)
    assert pair is not None, name
    ours, theirs = pair
    return torch.equal(ours.detach().to(theirs.device, theirs.dtype), theirs)


def parameters(model: Any) -> dict[str, torch.Tensor]:
    """The weights of an engine's model, by their names; what vLLM runs where the model is."""
    return {name: parameter.data for name, parameter in model.named_parameters()}


def _in_engine(name: str) -> str:
    for mine, theirs in _PREFIXES:
        if name.startswith(mine):
            return theirs + name.removeprefix(mine)
    return name


def _same_shape(
    mine: torch.Tensor, theirs: torch.Tensor, share: Share
) -> tuple[torch.Tensor, torch.Tensor] | None:
    if mine.shape == theirs.shape:
        return mine, theirs
    if mine.dim() != theirs.dim():
        return None
    differing = [d for d in range(mine.dim()) if mine.shape[d] != theirs.shape[d]]
    if len(differing) != 1:
        return None
    (dim,) = differing
    if share.size > 1:
        if mine.shape[dim] != theirs.shape[dim] * share.size:
            return None
        return mine.chunk(share.size, dim)[share.rank], theirs
    # vLLM rounds the vocabulary up.
    return (mine, theirs[: mine.shape[0]]) if dim == 0 and mine.shape[0] < theirs.shape[0] else None
