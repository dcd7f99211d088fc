"""Presets: the values of a published recipe, put under what the user wrote."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from importlib.resources import files
from textwrap import indent
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

ALWAYS = ("model", "conversation")
"""Sections that every run has, so that a preset gives them even where the file does not."""


def load(name: str) -> dict[str, Any]:
    """The partial spec of a preset.

    Raises:
        FileNotFoundError: there is no such preset.
    """
    return deepcopy(_read(name))


@cache
def _read(name: str) -> dict[str, Any]:
    # YAML takes tens of milliseconds, and the operator resolves a run at each look at it.
    text = files("coldstart").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    assert isinstance(document, dict)
    return document


@cache
def names() -> tuple[str, ...]:
    """The presets that there are."""
    found = files("coldstart").joinpath("presets").iterdir()
    return tuple(sorted(item.name[:-5] for item in found if item.name.endswith(".yaml")))


def resolve(document: dict[str, Any]) -> dict[str, Any]:
    """A run's document with its preset's values under the user's, who wins.

    Only the sections that the file has are filled, so that a stage left out stays out; mappings
    are merged key by key, lists are replaced. Documents that are wrong in any way are returned as
    they are: validation, which comes next, says what is wrong.
    """
    spec = document.get("spec")
    if not isinstance(spec, dict) or spec.get("preset") not in names():
        return document
    preset = load(spec["preset"])
    present = {key: value for key, value in preset.items() if key in ALWAYS or key in spec}
    if "sft" in present and ("distill" in spec or _has(spec["sft"], "from")):
        del present["sft"]["dataset"]  # it trains on what a distillation makes
    return {**document, "spec": _under(present, spec)}


def _has(section: Any, key: str) -> bool:
    return isinstance(section, dict) and section.get(key) is not None


def _under(preset: Any, user: Any) -> Any:
    """The user's value with the preset's under it.

    What has a name, such as a data set, is one thing: another name takes nothing from the
    preset's, whose columns would not fit it. An empty section (`sft: {}`) takes all.
    """
    if not isinstance(preset, dict):
        return user
    if user is None:
        return preset
    if not isinstance(user, dict) or user.get("name", preset.get("name")) != preset.get("name"):
        return user
    return preset | {key: _under(preset.get(key), value) for key, value in user.items()}


def starter(name: str) -> str:
    """A commented run.yaml with every value of a preset, to be edited.

    Raises:
        FileNotFoundError: there is no such preset.
    """
    text = files("coldstart").joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")
    source, _, sections = text.partition("\n\n")
    environment = Environment(
        loader=PackageLoader("coldstart", "presets"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML from our own files
        keep_trailing_newline=True,
    )
    return environment.get_template("run.yaml.j2").render(
        name=name, source=source, sections=indent(sections, "  ")
    )
