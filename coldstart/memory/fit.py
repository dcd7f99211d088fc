"""Whether a stage fits its GPUs, in words; and if not, the nearest setting with which it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from coldstart.evaluation import Evaluation
from coldstart.memory.estimate import Stage
from coldstart.memory.quantity import GIB, shown
from coldstart.spec import GRPO, ModelSpec, TrainingSpec

CARDS = tuple(size * GIB for size in (16, 24, 40, 48, 80, 96, 141, 192))
"""Sizes in which GPUs are common."""

NAMED = 4
"""How many of the parts a refusal names, the largest first."""

MOST_GPUS, MOST_NODES = 8, 64
"""How far a remedy goes: a machine of eight GPUs is common, one of more is not."""

MOST_PARTS = 128
"""Into how many parts a batch is divided at most."""

Change = tuple[str, Any]
"""A field of the stage's section by its path, and its value."""


@dataclass(frozen=True)
class Remedy:
    """Changes of a stage with which it fits."""

    changes: tuple[Change, ...]
    stage: Stage

    @property
    def words(self) -> str:
        """As the message says them."""
        named = " and ".join(f"{path}: {_written(value)}" for path, value in self.changes)
        return f"{named} ({shown(self.stage.peak.total)})"


def fits(stage: Stage) -> bool:
    """Whether every phase has room on the card, and vLLM in its share; with no card, it has."""
    return _problem(stage) is None


def smallest_card(stage: Stage) -> int | None:
    """The smallest common GPU that the stage fits, in bytes."""
    return next((card for card in CARDS if fits(replace(stage, card=card))), None)


def refusal(stage: Stage, field: str) -> str | None:
    """Why the stage cannot start, and what to change; None if it fits, or nothing is known.

    Args:
        stage: the stage on its devices.
        field: the path of its section, as `spec.sft`.
    """
    problem = _problem(stage)
    if problem is None:
        return None
    path, message = problem
    found = remedy(stage)
    if found:
        advice = f"it fits with {found.words}"
    elif card := smallest_card(stage):
        advice = f"take GPUs of {card // GIB} GiB, or shorten conversation's lengths"
    else:
        advice = "shorten conversation's lengths, or take a smaller model"
    return f"{field}.{path}: {message}; {advice}"


def remedy(stage: Stage) -> Remedy | None:
    """The first setting that fits: one change if one is enough, else as few as are needed.

    Changes are tried in the order of what they cost: those that only take time first, then those
    that need more machines.
    """
    for knob in _KNOBS:
        for change in knob(stage.spec):
            changed = _changed(stage, (change,))
            if changed and fits(changed):
                return Remedy((change,), changed)
    changes: tuple[Change, ...] = ()
    current = stage
    for knob in _KNOBS:
        options = [
            ((*changes, change), changed)
            for change in knob(current.spec)
            if (changed := _changed(stage, (*changes, change)))
        ]
        if found := next((item for item in options if fits(item[1])), None):
            return _least(stage, found[0])
        better = min(options, key=lambda item: item[1].peak.total, default=None)
        if better and better[1].peak.total < current.peak.total:
            changes, current = better
    return None


def _problem(stage: Stage) -> tuple[str, str] | None:
    """The field that is at fault, and what is wrong."""
    if stage.card is None or not stage.gpu:
        return None
    if stage.colocated and stage.share < stage.engine:
        message = (
            f"{shown(stage.share)} of a GPU's {shown(stage.card)} are too little for vLLM, which "
            f"needs {shown(stage.engine)} for weights, one sequence and its own work"
        )
        return f"{_section(stage.spec)}gpuMemoryUtilization", message
    peak = stage.peak
    if peak.total <= stage.card:
        return None
    largest = sorted(peak.parts.items(), key=lambda part: -part[1])[:NAMED]
    parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in largest)
    message = (
        f"a GPU of {shown(stage.card)} cannot hold phase {peak.name!r}, which takes "
        f"{shown(peak.total)} ({parts})"
    )
    return "resources.gpuMemory", message


def _least(stage: Stage, changes: tuple[Change, ...]) -> Remedy:
    """Without the changes that are not needed."""
    for change in changes:
        fewer = tuple(item for item in changes if item != change)
        changed = _changed(stage, fewer)
        if changed and fits(changed):
            changes = fewer
    final = _changed(stage, changes)
    assert final
    return Remedy(changes, final)


def _changed(stage: Stage, changes: tuple[Change, ...]) -> Stage | None:
    """The stage with these values; None where its section would be wrong with them."""
    document = stage.spec.document()
    for path, value in changes:
        *parents, last = path.split(".")
        section = document
        for part in parents:
            section = section[part]
        section[last] = value
    try:
        spec: ModelSpec = type(stage.spec).parse(document)
    except ValidationError:
        return None
    return replace(stage, spec=spec)


def _checkpointing(spec: ModelSpec) -> Iterator[Change]:
    if isinstance(spec, TrainingSpec) and not spec.gradient_checkpointing:
        yield "gradientCheckpointing", True


def _zero(spec: ModelSpec) -> Iterator[Change]:
    if isinstance(spec, TrainingSpec):
        for level in range(spec.parallelism.zero + 1, 4):
            yield "parallelism.zero", level


def _offload(spec: ModelSpec) -> Iterator[Change]:
    if isinstance(spec, TrainingSpec) and spec.parallelism.zero and not spec.parallelism.offload:
        yield "parallelism.offload", True


def _smaller_batch(spec: ModelSpec) -> Iterator[Change]:
    if isinstance(spec, TrainingSpec):
        group = spec.group_size if isinstance(spec, GRPO) else 1
        yield from (("microBatchSize", size) for size in _smaller(spec.micro_batch_size, group))
    elif isinstance(spec, Evaluation) and spec.engine == "transformers":
        yield from (("batchSize", size) for size in _smaller(spec.batch_size, 1))


def _smaller(size: int, group: int) -> list[int]:
    """Whole parts of a size, and its parts that are divisors of a group, the largest first."""
    parts = {size // part for part in range(2, MOST_PARTS + 1)}
    divisors = {number for number in range(1, group + 1) if group % number == 0}
    return sorted((n for n in parts | divisors if 0 < n < size), reverse=True)


def _section(spec: ModelSpec) -> str:
    """Where a stage has the settings of vLLM."""
    return "rollout." if isinstance(spec, GRPO) else ""


def _vllm(spec: ModelSpec) -> Iterator[Change]:
    if not isinstance(spec, GRPO | Evaluation):
        return
    section = _section(spec)
    settings = spec.rollout if isinstance(spec, GRPO) else spec
    if settings.engine != "vllm":
        if spec.resources.gpus_per_node:
            yield f"{section}engine", "vllm"
        return
    if isinstance(spec, GRPO) and not spec.rollout.sleep:
        yield "rollout.sleep", True
    shares = [number / 20 for number in range(19, 1, -1)]
    own = settings.gpu_memory_utilization
    yield from ((f"{section}gpuMemoryUtilization", share) for share in shares if share < own)
    more = [share for share in reversed(shares) if share > own]
    yield from ((f"{section}gpuMemoryUtilization", share) for share in more)
    for size in (2, 4, 8):
        if settings.tensor_parallel_size < size <= spec.resources.gpus_per_node:
            yield f"{section}tensorParallelSize", size


def _more_gpus(spec: ModelSpec) -> Iterator[Change]:
    if not isinstance(spec, TrainingSpec) or not spec.parallelism.zero:
        return
    now = spec.resources
    for gpus in (2, 4, MOST_GPUS):
        if gpus > now.gpus_per_node:
            yield "resources.gpusPerNode", gpus
    if now.gpus_per_node >= MOST_GPUS:
        nodes = now.nodes * 2
        while nodes <= MOST_NODES:
            yield "resources.nodes", nodes
            nodes *= 2


_KNOBS: tuple[Callable[[ModelSpec], Iterator[Change]], ...] = (
    _checkpointing,
    _zero,
    _offload,
    _smaller_batch,
    _vllm,
    _more_gpus,
)
"""What is tried, in this order."""


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value}"
