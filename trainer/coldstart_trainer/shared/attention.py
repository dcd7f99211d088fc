"""Attention over a packed row, in two parts: prefixes causally, segments over prefix and self.

No mask over the whole row is ever made: it would cost what the packing saves. Two kernels stand
behind one interface, `attend`: torch's scaled dot product on any device, and on a GPU, for long
rows, its variable-length flash attention with the prefix's keys gathered for each segment.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from coldstart_trainer.shared.layout import Group, Layout

NAME = "coldstart_shared"
"""What the attention is called in a model's configuration."""

VARLEN_FROM = 1024
"""Tokens of a row from which the variable-length kernel is taken: below, its gathering costs more
than the padding that it saves."""

BLOCK = 512
"""Queries of a segment that are masked at once: what is after them is not even multiplied."""

_VARLEN_TYPES = (torch.bfloat16, torch.float16)
_VARLEN_HEAD = 256


def attend(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    """Attention within the groups of a row.

    Args:
        query: (1, heads, T, head size).
        key: (1, key heads, T, head size), where key heads divide heads.
        value: the same.
        layout: of T tokens.
        scale: of the scores.

    Returns:
        (1, heads, T, head size).
    """
    device = query.device.type
    if torch.is_autocast_enabled(device):
        # As autocast does for scaled dot products: rotated queries and keys come in fp32.
        kind = torch.get_autocast_dtype(device)
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
    if _varlen_fits(query, layout):
        return _varlen(query, key, value, layout, scale)
    return _dot_product(query, key, value, layout, scale)


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    group_layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """A layer's attention, as transformers calls it; without a layout it is that of `sdpa`."""
    if group_layout is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, **options
        )
        return found
    result = attend(query, key, value, group_layout, options["scaling"])
    return result.transpose(1, 2), None


def register() -> None:
    """Make the attention known to transformers under its name."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _dot_product(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    # One split, whose backward pass is one concatenation; slices would each add to a whole row.
    parts = iter(
        zip(*(torch.split(x, layout.sizes, dim=2) for x in (query, key, value)), strict=True)
    )
    grouped = query.shape[1] != key.shape[1]
    made: list[Tensor] = []
    for group in layout.groups:
        prefix = next(parts) if group.prefix else None
        if prefix is not None:
            made.append(_scaled(*prefix, is_causal=True, scale=scale, enable_gqa=grouped))
        if group.segments:
            own = [next(parts) for _ in group.segments]
            made += _segments(group, prefix, own, scale)
    return torch.cat(made, dim=2)


Part = tuple[Tensor, Tensor, Tensor]
"""Query, key and value of a run of tokens."""


def _segments(group: Group, prefix: Part | None, own: list[Part], scale: float) -> list[Tensor]:
    """The segments of a group as one batch, padded at their ends, where nothing looks."""
    longest, count = max(group.segments), len(group.segments)
    query, key, value = (
        torch.cat([_padded(x, longest) for x in kind]) for kind in zip(*own, strict=True)
    )
    if prefix is not None:
        key, value = (
            torch.cat([seen.expand(count, -1, -1, -1), x], dim=2)
            for seen, x in ((prefix[1], key), (prefix[2], value))
        )
    blocks = [
        _block(query, key, value, group.prefix, start, scale) for start in range(0, longest, BLOCK)
    ]
    result = torch.cat(blocks, dim=2) if len(blocks) > 1 else blocks[0]
    pieces = zip(torch.split(result, 1), group.segments, strict=True)
    return [piece[:, :, :length] for piece, length in pieces]


def _padded(part: Tensor, length: int) -> Tensor:
    missing = length - part.shape[2]
    return pad(part, (0, 0, 0, missing)) if missing else part


def _block(
    query: Tensor, key: Tensor, value: Tensor, prefix: int, start: int, scale: float
) -> Tensor:
    """What the queries of the segments from `start` on see, which no later keys are part of."""
    query = query[:, :, start : start + BLOCK]
    count, heads, length, size = query.shape
    seen = prefix + start + length
    # Causal, aligned with the last key: the prefix is before all of it.
    mask = query.new_ones((length, seen), dtype=torch.bool).tril(prefix + start)
    # Heads that share a key head stand one below the other, as if they were further queries: no
    # key is copied for them, and every kernel takes it (with a mask, few take grouped heads).
    shared = heads // key.shape[1]
    below = query.reshape(count, key.shape[1], shared * length, size)
    result: Tensor = _scaled(
        below,
        key[:, :, :seen],
        value[:, :, :seen],
        attn_mask=mask.repeat(shared, 1),
        scale=scale,
    )
    return result.view_as(query)


_scaled: Any = scaled_dot_product_attention


def _varlen_fits(query: Tensor, layout: Layout) -> bool:
    return (
        query.is_cuda
        and query.dtype in _VARLEN_TYPES
        and query.shape[-1] <= _VARLEN_HEAD
        and layout.length >= VARLEN_FROM
    )


def _varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout, scale: float) -> Tensor:
    varlen: Any = importlib.import_module(
        "torch.nn.attention.varlen"
    )  # newer than our oldest torch
    seen, queries, keys = gathered(layout, query.device)
    spans = layout.spans
    result: Tensor = varlen.varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        key[0].transpose(0, 1)[seen],
        value[0].transpose(0, 1)[seen],
        queries,
        keys,
        max(span.length for span in spans),
        max(span.seen + span.length for span in spans),
        scale=scale,
        window_size=(-1, 0),  # causal, aligned with the last key
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return result.transpose(0, 1)[None]


def gathered(layout: Layout, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """What variable-length attention takes a row apart by.

    Returns:
        the positions of the keys that each run of tokens sees, itself included, one run after the
        other; where each run begins among the queries (int32, runs + 1); and among these keys.
    """
    starts = torch.tensor([(s.seen_start, s.seen, s.start, s.length) for s in layout.spans])
    seen = [
        torch.cat([torch.arange(first, first + many), torch.arange(own, own + length)])
        for first, many, own, length in starts.tolist()
    ]
    queries = pad(starts[:, 3].cumsum(0), (1, 0)).to(device, torch.int32)
    keys = pad((starts[:, 1] + starts[:, 3]).cumsum(0), (1, 0)).to(device, torch.int32)
    return torch.cat(seen).to(device), queries, keys
