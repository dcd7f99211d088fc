"""The reference page on memory: what the presets take, as the estimate says, and what it is."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from coldstart import preset
from coldstart.memory import activations, estimate, fit, shapes
from coldstart.memory.quantity import GIB
from coldstart.run import ReasoningRun

_HEAD = "<!-- Made by `make generate` from the estimator; edit that. -->\n\n"

_INTRO = """# Memory

`coldstart validate` estimates what one GPU holds in each phase of a stage, at the longest lengths
that the conversation allows. The formulas and their sources stand in `coldstart/memory/`.

- **Weights, gradients, optimizer states, reference model**: exact, for what the trainer and
  DeepSpeed do (ZeRO, arXiv 1910.02054).
- **Activations**: what autograd keeps is counted, within 5 % of what PyTorch keeps for small models
  on a CPU; what comes and goes in one layer is an estimate (after arXiv 2205.05198).
- **Logits**: counted from TRL's fused head, a tile of {tokens} x {columns} and gradients in fp32.
- **Key-value cache, pixels**: counted.
- **vLLM**: its share of the GPU. That it needs {engine} GiB besides weights and cache, and keeps
  {asleep} GiB asleep, are estimates.
- **CUDA and libraries, allocator's waste**: estimates, {context} GiB and {waste:.0%} of the rest.
- **Host memory**: an estimate, {process} GiB for each process and what it keeps or loads there.

No peak of a GPU has been measured with this software yet.

## The presets

With GPUs of 80 GiB, in GiB; the evaluation as `coldstart init` writes it. None of these runs has
been executed.
"""


def memory_page() -> str:
    """What the estimate knows, and its numbers for the presets."""
    intro = _INTRO.format(
        tokens=f"{activations.HEAD_TOKENS:,}",
        columns=f"{activations.HEAD_COLUMNS:,}",
        engine=estimate.ENGINE // GIB,
        asleep=estimate.ASLEEP // GIB,
        context=estimate.CONTEXT // GIB,
        waste=estimate.WASTE,
        process=estimate.PROCESS // GIB,
    )
    head = ["| preset | stage | GPUs | phases | smallest common GPU | host memory of a node |"]
    rows = [row for name in preset.names() for row in _rows(name)]
    return _HEAD + "\n".join([intro, *head, "|---|---|---|---|---|---|", *rows]) + "\n"


def _rows(name: str) -> Iterator[str]:
    run = ReasoningRun.parse(preset.resolve(yaml.safe_load(preset.starter(name))))
    shape = shapes.shape(shapes.published()[run.spec.model.name])
    for stage in run.spec.stages:
        found = estimate.stage(run.spec.stage(stage), shape, run.spec.conversation)
        phases = ", ".join(f"{phase.name} {phase.total / GIB:.1f}" for phase in found.phases)
        resources = found.spec.resources
        smallest = fit.smallest_card(found)
        assert smallest
        yield (
            f"| {name} | {stage} | {resources.world_size} | {phases} | {smallest // GIB} "
            f"| {found.host / GIB:.0f} |"
        )
