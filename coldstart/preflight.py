"""What can be known to fail on this machine before a stage starts, and hours are spent."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from coldstart.engine import vllm_mistake
from coldstart.memory import forecast
from coldstart.run import RunSpec
from coldstart.uses import uses


def mistakes(spec: RunSpec, workdir: Path) -> list[str]:
    """One line for each thing that a later stage would stop at: its field, and what to do.

    Args:
        spec: the resolved spec.
        workdir: the directory that local data sets are relative to.
    """
    return [
        *_machine(spec),
        *_missing_files(spec, workdir),
        *_missing_key(spec),
        *forecast(spec, workdir).refusals,
        *missing_packages(),
    ]


def _machine(spec: RunSpec) -> Iterator[str]:
    for stage in spec.stages:
        nodes = spec.stage(stage).resources.nodes
        if nodes > 1:
            yield (
                f"spec.{stage.value}.resources.nodes: is {nodes}, "
                "but coldstart run has one machine; set it to 1"
            )
    engines = {
        "spec.grpo.rollout.engine": spec.grpo.rollout.engine if spec.grpo else None,
        "spec.evaluation.engine": spec.evaluation.engine if spec.evaluation else None,
    }
    fields = [field for field, engine in engines.items() if engine == "vllm"]
    if fields and (mistake := vllm_mistake()):
        yield from (f"{field}: {mistake}; or set it to transformers" for field in fields)
    if spec.distill and not spec.distill.teacher.base_url and (mistake := vllm_mistake()):
        yield f"spec.distill.teacher: {mistake}; or set baseUrl to where the teacher is served"


def _missing_files(spec: RunSpec, workdir: Path) -> Iterator[str]:
    for use in uses(spec):
        path, pictures = use.dataset.place(workdir), use.dataset.pictures(workdir)
        if use.dataset.looks_local and not path.exists():
            yield f"{use.field}.name: there is no file {path}"
        if pictures and not pictures.is_dir():
            yield f"{use.field}.imageDir: there is no directory {pictures}"


def _missing_key(spec: RunSpec) -> Iterator[str]:
    name = spec.distill.teacher.api_key_env if spec.distill else None
    if name and not os.environ.get(name):
        yield (
            f"spec.distill.teacher.apiKeyEnv: the environment has no {name}: export the key under "
            "that name"
        )


def missing_packages() -> Iterator[str]:
    """What has to be installed before a stage, or a check of its data, can be started here."""
    for package in ("torch", "trl", "coldstart_trainer"):
        if importlib.util.find_spec(package) is None:
            yield f"{package} is not installed: pip install 'coldstart-operator[trainer]'"
            return
