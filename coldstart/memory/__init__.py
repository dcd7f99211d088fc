"""What each GPU of a run will hold, before anything is started; nothing is measured here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldstart.memory import estimate, fit, shapes
from coldstart.memory.estimate import Stage
from coldstart.run import RunSpec
from coldstart.spec import ModelSpec
from coldstart.spec import Stage as StageName

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True)
class Forecast:
    """The memory of a run's stages."""

    stages: dict[StageName, Stage]
    """Each stage on its devices; none where the model is not known."""
    unknown: str = ""
    """Why there are none."""

    @property
    def refusals(self) -> list[str]:
        """One line for each stage that cannot fit, with the field and the nearest setting."""
        found = (fit.refusal(stage, f"spec.{name}") for name, stage in self.stages.items())
        return [line for line in found if line]

    def document(self) -> dict[str, Any]:
        """For programs: bytes by stage, phase and part."""
        if self.unknown:
            return {"unknown": self.unknown}
        return {
            name.value: {
                "refusal": fit.refusal(stage, f"spec.{name}"),
                "phases": {phase.name: dict(phase.parts) for phase in stage.phases},
                "hostBytes": stage.host,
                "gpuBytes": stage.card,
                "smallestGpuBytes": fit.smallest_card(stage) if stage.gpu else None,
            }
            for name, stage in self.stages.items()
        }


def forecast(spec: RunSpec, directory: Path) -> Forecast:
    """The memory of a run, from its spec and the shape of its base model.

    Args:
        spec: the resolved spec.
        directory: what a local model's path is relative to.
    """
    try:
        shape = shapes.known(spec.model.name, directory)
    except shapes.ShapeError as error:
        return Forecast({}, str(error))
    stages = {
        name: estimate.stage(section, shape, spec.conversation)
        for name in spec.stages
        if isinstance(section := spec.stage(name), ModelSpec)
    }
    return Forecast(stages)
