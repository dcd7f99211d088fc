"""Scores of the next tokens of a packed row, by one forward pass of the model; no loss.

TRL's fused LM head does the scoring; the model is prepared once so that it gets only the hidden
states that are scored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import Tensor

from coldstart_trainer.shared import attention
from coldstart_trainer.shared.layout import Layout


@dataclass(frozen=True)
class Row:
    """One packed row."""

    input_ids: Tensor
    """(1, T)."""
    position_ids: Tensor
    """(3, 1, T) where the model's positions are multimodal, else (1, T)."""
    layout: Layout
    """Of T tokens."""
    scored: Tensor
    """(N,): the positions whose next token is scored."""
    targets: Tensor
    """(N,): those next tokens."""
    pixels: dict[str, Tensor]
    """`pixel_values` and `image_grid_thw` of the images in the row, each once; or nothing."""


def prepare(model: Any) -> None:
    """Let a model take packed rows, beside all that it took before; doing it twice is harmless.

    Args:
        model: a model of transformers with TRL's fused LM head, or a PEFT model around one.
    """
    attention.register()
    inner = core(model)
    text = inner.config.get_text_config()
    if text._attn_implementation == attention.NAME:  # noqa: SLF001
        return
    text._attn_implementation = attention.NAME  # noqa: SLF001
    inner.base_model.register_forward_hook(_only_scored, with_kwargs=True)


def core(model: Any) -> Any:
    """A model of transformers without the adapter around it."""
    return model.get_base_model() if is_peft_model(model) else model


def score(model: Any, row: Row) -> Any:
    """TRL's `FusedCausalLMOutput` for a row; its per-token fields are (1, N).

    Args:
        model: prepared, and maybe wrapped for data parallelism.
        row: the packed row.
    """
    return model(**inputs(row), fused_lm_head=True)


def inputs(row: Row) -> dict[str, Any]:
    """What TRL's fused LM head and a prepared model take of a row."""
    # A mask that is already four-dimensional is passed on as it is, so that none is made for the
    # row; the attention looks at the layout instead.
    no_mask = torch.zeros((1, 1, 1, 1), dtype=torch.bool, device=row.input_ids.device)
    return {
        "input_ids": row.input_ids,
        "attention_mask": no_mask,
        "position_ids": row.position_ids,
        "shift_labels": row.targets[None],
        "use_cache": False,
        "group_layout": row.layout,
        "scored": row.scored,
        **row.pixels,
    }


def _only_scored(
    _module: torch.nn.Module, _arguments: Any, options: dict[str, Any], output: Any
) -> Any:
    scored = options.get("scored")
    if scored is not None:
        output.last_hidden_state = output.last_hidden_state[:, scored]
    return output
