"""Whether what a study's runs call by one name was the same all along; trusts the checkpoints."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from coldstart.checkpoint import CheckpointError, read_manifest
from coldstart.files import digest_of
from coldstart.layout import RunLayout
from coldstart.spec import StageSpec
from coldstart.study.plan import StudyPlan


def changes(plan: StudyPlan, directory: Path) -> Iterator[str]:
    """Data sets and base models that have changed between the runs of a study; a sentence each."""
    seen: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for run in plan.runs.values():
        try:
            kept = read_manifest(RunLayout(directory / run.name).stage(run.stage).final)
        except CheckpointError:
            continue
        spec = run.run.spec
        seen[f"The model {spec.model.name}", ""].add(kept.fingerprints.base_model)
        how = _drawn(spec.stage(kept.stage)) + kept.fingerprints.conversation
        for dataset in kept.datasets:
            seen[f"The data set {dataset.name} of {run.stage}", how].add(dataset.fingerprint)
    for (what, _), contents in seen.items():
        if len(contents) > 1:
            yield f"{what} has changed between runs: not all arms had the same content."


def _drawn(section: StageSpec) -> str:
    """What else decides which rows of a data set a stage has kept."""
    told = {key: value for key, value in section.document().items() if key in ("dataset", "probe")}
    return digest_of(told | {"seed": section.seed if "limit" in json.dumps(told) else None})
