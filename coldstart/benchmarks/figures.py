"""Accuracies that the recipe's authors have published, in percent; nothing is measured here."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal

from coldstart.schema import Contract, Name


class Figure(Contract):
    """One published row: whole splits, and a matcher that is not known."""

    name: Name
    """What the authors call it."""
    model: Name
    """The base model's hub id."""
    stages: Literal["base", "sft+grpo"]
    """What it went through."""
    accuracy: dict[str, float]
    """By benchmark, in percent."""
    mean: float
    """Their unweighted mean as published, in percent."""


class Figures(Contract):
    """All of them."""

    source: str
    """Where they stand."""
    figures: tuple[Figure, ...]
    """The rows."""


@cache
def figures() -> Figures:
    """The published rows."""
    text = files("coldstart.benchmarks").joinpath("figures.json").read_bytes()
    return Figures.model_validate_json(text)
