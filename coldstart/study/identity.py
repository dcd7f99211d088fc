"""What makes two stages the same: what they are told and what they start from, as a digest.

Data and base models count by name and revision; that their content was the same all along is seen
afterwards, by the fingerprints in the checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coldstart.distill import Distill
from coldstart.files import digest_of
from coldstart.run import RunSpec
from coldstart.spec import Stage, TrainingSpec


@dataclass(frozen=True)
class Key:
    """One stage of an arm, and all that it comes from."""

    stage: Stage
    digest: str


def keys(spec: RunSpec) -> tuple[Key, ...]:
    """The stages that make an arm's checkpoint, in order, each with its identity.

    Resources, how often is saved and the like are no part of it, as in `StageSpec.recipe`; the
    gate is, since it decides whether what comes after may start.
    """
    found: list[Key] = []
    parent = None
    for stage in spec.stages:
        section = spec.stage(stage)
        if not isinstance(section, Distill | TrainingSpec):
            continue
        told: dict[str, Any] = {
            **ground(spec),
            "parent": parent,
            stage.value: section.recipe(),
            "gate": section.gate.document(),
        }
        parent = digest_of(told)
        found.append(Key(stage, parent))
    return tuple(found)


def base_key(spec: RunSpec) -> str:
    """The identity of the base model's scores."""
    assert spec.evaluation is not None
    return digest_of({**ground(spec), "evaluation": spec.evaluation.recipe()})


def ground(spec: RunSpec) -> dict[str, Any]:
    """What all stages of an arm stand on."""
    return {"model": spec.model.document(), "conversation": spec.conversation.document()}
