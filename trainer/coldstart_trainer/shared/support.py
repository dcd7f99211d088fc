"""Which models can have their rows packed, how exactly, and the reason where one cannot."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from coldstart_trainer.shared.attention import NAME

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen2", "qwen3")
"""Model types whose packed rows are tested against dense ones."""

TOLERANCE = {"fp32": 1e-4, "bf16": 0.05}
"""Nats a token by which the log-probabilities of a row may change with the shape of the batch
alone, by the precision of the computation."""

SELF_CHECK = "shared/selfcheck_nats"
"""Key under which TRL logs how far packed rows were from dense ones in the first step."""


def worst_row(one: Tensor, other: Tensor, mask: Tensor) -> Tensor:
    """How far apart two scorings of the same rows are: the greatest mean of a row's tokens.

    Of many tokens one of little probability differs by more than what a mistake would show in all,
    for rounding in bf16 alone.

    Args:
        one: (B, C) log-probabilities.
        other: the same, computed otherwise.
        mask: (B, C), bool: the tokens that count. A row without any is no difference.
    """
    differences = (one - other).abs().masked_fill(~mask, 0)
    return (differences.sum(1) / mask.sum(1).clamp(min=1)).max()


def obstacle(model: Any) -> str:
    """Why rows of this model cannot be packed exactly; empty where they can.

    Args:
        model: a model of transformers, or a PEFT model around one.
    """
    config = model.config
    text = config.get_text_config()
    kind, attention = config.model_type, text._attn_implementation  # noqa: SLF001
    others = sorted(set(getattr(text, "layer_types", None) or ()) - {"full_attention"})
    adapter = getattr(model, "active_peft_config", None)
    reasons = (
        (
            getattr(text, "num_experts", 0) or getattr(text, "num_local_experts", 0),
            "it is a mixture of experts, whose auxiliary loss counts prompt tokens",
        ),
        (others, f"it has layers of type {', '.join(others)}, which see their row otherwise"),
        (
            kind not in MODEL_TYPES,
            f"model type {kind} is not one of {', '.join(MODEL_TYPES)}",
        ),
        (attention not in ("sdpa", NAME), f"its attention is {attention}, not sdpa"),
        (
            _dropout(model, text),
            "it has dropout, which is drawn otherwise for a packed row",
        ),
        (
            getattr(adapter, "is_prompt_learning", False),
            "its adapter learns a prompt of its own",
        ),
    )
    return next((reason for found, reason in reasons if found), "")


def _dropout(model: Any, text: Any) -> bool:
    modules = (module for module in model.modules() if isinstance(module, nn.Dropout))
    return bool(getattr(text, "attention_dropout", 0)) or any(module.p > 0 for module in modules)
