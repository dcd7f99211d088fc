"""When a study may say that it reproduces published figures; words nothing else.

Needed are the whole split of every benchmark, the preset as it is, figures inside the intervals.
The authors' matcher is not known, so that even then the word stands for this project's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from coldstart.benchmarks.figures import Figure, figures
from coldstart.preset import resolve
from coldstart.run import RunSpec
from coldstart.spec import Stage


class Scored(Protocol):
    """An accuracy on a benchmark, with its interval over problems."""

    @property
    def benchmark(self) -> str | None:
        """Which."""
        ...

    @property
    def low(self) -> float:
        """Lower end, a share."""
        ...

    @property
    def high(self) -> float:
        """Upper end."""
        ...

    @property
    def partial(self) -> bool:
        """Whether it is not of the whole published split."""
        ...


def lacking(spec: RunSpec, measures: Sequence[Scored]) -> list[str]:
    """What keeps an arm from the claim that it reproduces the published figures; empty: nothing.

    Args:
        spec: the arm's.
        measures: what it has on each benchmark.
    """
    figure = next((item for item in figures().figures if _is_of(item, spec)), None)
    if figure is None:
        return [f"nothing is published for {spec.model.name} after these stages"]
    return [*_unlike(spec), *_unscored(figure, measures), *_outside(figure, measures)]


def _is_of(figure: Figure, spec: RunSpec) -> bool:
    stages = "+".join(s.value for s in spec.stages if s in (Stage.SFT, Stage.GRPO))
    return (figure.model, figure.stages) == (spec.model.name, stages)


def _unlike(spec: RunSpec) -> Iterator[str]:
    """In what the arm is not as its preset; seeds, and commits of what it names, are free."""
    if spec.preset is None:
        yield "it has no preset"
        return
    sections: dict[str, Any] = {stage.value: {} for stage in spec.stages}
    document = resolve({"spec": {"preset": spec.preset, **sections}})
    preset = RunSpec.parse(document["spec"])
    for stage in spec.stages:
        if stage not in preset.stages:
            yield f"spec.{stage.value} is not in the preset {spec.preset}"
        elif _recipe(spec, stage) != _recipe(preset, stage):
            yield f"spec.{stage.value} is not as in the preset {spec.preset}"
    if spec.conversation != preset.conversation:
        yield f"spec.conversation is not as in the preset {spec.preset}"
    if spec.model.name != preset.model.name:
        yield f"spec.model is not as in the preset {spec.preset}"


def _recipe(spec: RunSpec, stage: Stage) -> Any:
    recipe = spec.stage(stage).recipe()
    return {key: _unpinned(value) for key, value in recipe.items() if key != "seed"}


def _unpinned(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unpinned(item) for key, item in value.items() if key != "revision"}
    return [_unpinned(item) for item in value] if isinstance(value, list) else value


def _unscored(figure: Figure, measures: Sequence[Scored]) -> Iterator[str]:
    whole = {item.benchmark for item in measures if not item.partial}
    for name in figure.accuracy:
        if name not in whole:
            yield f"{name} was not scored on its whole split"


def _outside(figure: Figure, measures: Sequence[Scored]) -> Iterator[str]:
    for item in measures:
        published = figure.accuracy.get(item.benchmark or "")
        if published is None or item.partial:
            continue
        if not 100 * item.low <= published <= 100 * item.high:
            yield f"{item.benchmark} has {published} published, which is outside its interval"
