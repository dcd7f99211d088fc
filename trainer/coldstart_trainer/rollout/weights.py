"""Whether an engine has the trainer's weights: a few matrices, found in it and compared.

Where a matrix lies in an engine follows from shapes alone. Its numbers are compared by digests,
because the engine may be another process: `readback` is what makes them there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from coldstart.status import ErrorCode
from coldstart_trainer.errors import StageFailure

PROBED = 8
"""How many matrices are compared: spread over the model, so that a half-done copy shows too."""

SAMPLED = 1 << 20
"""About how many numbers of a matrix a digest is made of, in whole rows from all over it."""

_PREFIXES = (
    ("model.language_model.", "language_model.model."),
    ("model.visual.", "visual."),
    ("lm_head.", "language_model.lm_head."),
)
"""Beginnings of names, in a vision-language model of transformers and in vLLM."""

_FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""What vLLM keeps as one matrix, its rows in this order."""

_PRECISIONS = {
    str(dtype): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
    )
}
"""Those of weights, as torch writes them."""

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Share:
    """Which part of each matrix an engine's process holds (tensor parallelism)."""

    rank: int = 0
    size: int = 1


@dataclass(frozen=True)
class Part:
    """The same numbers in a matrix of the trainer and in one of the engine."""

    name: str
    """The trainer's matrix."""
    place: str
    """The engine's."""
    dim: int
    """The dimension in which either may be a part of the other."""
    start: int
    """Where the numbers begin in the trainer's matrix."""
    held: int
    """Where they begin in the engine's."""
    length: int
    """How long they are in that dimension."""

    def ours(self, matrix: torch.Tensor) -> torch.Tensor:
        """The numbers, of the trainer's matrix."""
        return matrix.detach().narrow(self.dim, self.start, self.length)

    def theirs(self, matrix: torch.Tensor) -> torch.Tensor:
        """The numbers, of the engine's matrix."""
        return matrix.narrow(self.dim, self.held, self.length)


@dataclass(frozen=True)
class Holding:
    """What is compared with one of an engine's processes."""

    worker: int
    """Its number among the engine's processes."""
    parts: list[Part]
    """The matrices, spread over the model."""
    dtypes: Mapping[str, str]
    """The precision of each of the engine's weights, as torch writes it."""

    @classmethod
    def of(cls, told: Mapping[str, Any], names: Iterable[str], shapes: Shapes) -> Holding:
        """Choose, from what `readback` tells of a process.

        Args:
            told: what `held_weights` returned there.
            names: the weights that may be compared, by their names in the trainer's model.
            shapes: of all weights of that model.

        Raises:
            StageFailure: SamplerMismatch, if one of them has no precision to compare it in.
        """
        share = Share(told["rank"], told["size"])
        parts = comparable(names, shapes, told["shapes"], share)
        found = cls(told["worker"], parts, told["dtypes"])
        for part in parts:
            found.dtype(part.place)
        return found

    def dtype(self, place: str) -> torch.dtype:
        """The precision of one of the engine's weights.

        Raises:
            StageFailure: SamplerMismatch, if it is none of torch's for weights.
        """
        told = self.dtypes.get(place)
        if told in _PRECISIONS:
            return _PRECISIONS[told]
        raise StageFailure(
            ErrorCode.SAMPLER_MISMATCH,
            f"vLLM keeps {place} as {told!r:.80}, which cannot be compared with the trainer's "
            "weights: serve the model unquantized",
        )


def comparable(names: Iterable[str], shapes: Shapes, held: Shapes, share: Share) -> list[Part]:
    """What to compare of some weights: matrices, spread over the model.

    Args:
        names: the weights, by their names in the trainer's model.
        shapes: of all weights of that model.
        held: of the engine's weights, by its names.
        share: what the engine's process holds of each.
    """
    parts = (_found(name, shapes, held, share) for name in names if len(shapes[name]) > 1)
    found = [part for part in parts if part is not None]
    last = len(found) - 1
    picked = {round(number * last / (PROBED - 1)) for number in range(PROBED)} if found else ()
    return [found[index] for index in sorted(picked)]


def digest(numbers: torch.Tensor, dtype: torch.dtype) -> str:
    """A hash of a matrix in a precision, the same wherever and however it is stored."""
    every = max(1, numbers.numel() // SAMPLED)
    rows = numbers[::every].to("cpu", dtype).contiguous()
    return hashlib.sha256(rows.view(torch.uint8).numpy().tobytes()).hexdigest()


def _found(name: str, shapes: Shapes, held: Shapes, share: Share) -> Part | None:
    """Where a weight is in the engine; None where it is kept in a way that is not compared."""
    place = _in_engine(name)
    if place in held:
        return _alone(name, place, shapes[name], held[place], share)
    for fused, parts in _FUSED.items():
        for index, part in enumerate(parts):
            larger = place.replace(f".{part}.", f".{fused}.")
            if f".{part}." in place and larger in held:
                rows = [shapes[name.replace(f".{part}.", f".{each}.")][0] for each in parts]
                if len(held[larger]) != len(shapes[name]):
                    return None
                return _within(name, larger, index, rows, held[larger][0], share)
    return None


def _in_engine(name: str) -> str:
    for mine, theirs in _PREFIXES:
        if name.startswith(mine):
            return theirs + name.removeprefix(mine)
    return name


def _alone(
    name: str, place: str, mine: Sequence[int], theirs: Sequence[int], share: Share
) -> Part | None:
    if len(mine) != len(theirs):
        return None
    differing = [dim for dim in range(len(mine)) if mine[dim] != theirs[dim]]
    if not differing:
        return Part(name, place, 0, 0, 0, mine[0])
    if len(differing) > 1 or "qkv" in place:
        return None  # the vision tower's are cut by heads, not by rows
    (dim,) = differing
    if share.size > 1 and mine[dim] == theirs[dim] * share.size:
        return Part(name, place, dim, share.rank * theirs[dim], 0, theirs[dim])
    # vLLM rounds the vocabulary up.
    padded = share.size == 1 and dim == 0 and mine[0] < theirs[0]
    return Part(name, place, 0, 0, 0, mine[0]) if padded else None


def _within(
    name: str, place: str, index: int, rows: Sequence[int], total: int, share: Share
) -> Part | None:
    """One of several matrices whose rows the engine keeps one after the other.

    Each is shared out by heads. Where there are fewer heads of keys and values than processes, a
    process holds a whole one of each, and others hold the same.
    """
    if total == sum(rows):
        share = Share()
    first, rest = rows[0] // share.size, len(rows) - 1
    each = (total - first) // rest
    sizes = [first] + [each] * rest
    if sum(sizes) != total or not 0 < each <= rows[-1] or not first:
        return None
    size = sizes[index]
    start = share.rank * rows[index] // share.size // size * size
    if start + size > rows[index]:
        return None
    return Part(name, place, 0, start, sum(sizes[:index]), size)
