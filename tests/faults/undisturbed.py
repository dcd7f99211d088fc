"""Stages of the tiny model under a fault: how they are started, and how they end undisturbed.

What is promised: after a kill at any instruction each checkpoint is whole or has no manifest, the
next attempt goes on by itself, and what it ends with is what it would have been.
"""

from __future__ import annotations

import base64
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fake_teacher import MODEL, completion, serving
from faults.interposing import NONE, Action, Fault, Operation, loaded, recorded, suffered
from stage_attempts import CONVERSATION, SFT, losses, order, read_result, stage_order

from coldstart.checkpoint import verify
from coldstart.files import json_lines, sha256
from coldstart.layout import ROWS, RunLayout, output, results
from coldstart.stage import MANIFEST, StageOrder, StageResult
from coldstart.summary import read_samples

SHORT = {"maxSteps": 3, "saveSteps": 1, "keepCheckpoints": 1, "probe": {"size": 0}}
"""Saves after each update and keeps one checkpoint, so that every save also removes one."""

SECTIONS = {"sft": SHORT | {"probe": {"size": 1}}, "grpo": SHORT | {"updatesPerStep": 2}}
"""GRPO saves once in the middle of a sampling step."""

PICTURES = {
    "benchmarks": [{"name": "digits", "dataset": {"name": "rows.jsonl", "limit": 4}}],
    "checkpoints": ["base"],
    "resources": {"gpusPerNode": 0},
    "precision": "fp32",
    "batchSize": 2,
}


@dataclass(frozen=True)
class Undisturbed:
    """An attempt that nothing befell: what it did, and what it ended with."""

    operations: tuple[Operation, ...]
    outcome: dict[str, Any]
    seconds: float
    storage: Path


@dataclass(frozen=True)
class Case:
    """A stage to be disturbed, in a storage that is given."""

    stage: str
    model: Path
    rows: Path
    teacher: str = ""

    def order(self, storage: Path, **section: Any) -> StageOrder:
        """The first attempt's order."""
        if self.stage in SECTIONS:
            return order(
                self.stage, storage, self.model, self.rows, **SECTIONS[self.stage] | section
            )
        spec: dict[str, Any] = {"sft": SFT | {"dataset": {"name": "rows.jsonl"}}}
        spec["conversation"] = CONVERSATION | {"maxCompletionTokens": 8}
        if self.stage == "distill":
            spec["conversation"] = CONVERSATION | {"maxCompletionTokens": 200}
            teacher = {"baseUrl": self.teacher, "model": MODEL}
            dataset = {"name": "rows.jsonl", "limit": 6}
            spec["distill"] = {"dataset": dataset, "teacher": teacher, "samples": 2, "keep": "all"}
            del spec["sft"]["dataset"]
        else:
            spec["evaluation"] = PICTURES | section
        return stage_order(self.stage, self.model, storage, self.rows.parent, spec)

    def outcome(self, given: StageOrder, result: StageResult) -> dict[str, Any]:
        """What an attempt ended with, as far as an exact resume promises it."""
        layout = output(given)
        if self.stage == "evaluation":
            place = RunLayout(Path(given.storage) / given.run.name).benchmark("base", "digits")
            samples = sorted(read_samples(place), key=lambda sample: sample.id)
            return {"results": json.loads(results(place).read_bytes()), "samples": samples}
        verify(layout.final, result.checkpoint.digest)
        assert not layout.root.joinpath("final.partial").exists()
        found = {"step": result.checkpoint.step, "metrics": _lasting(result.metrics)}
        if self.stage == "distill":
            return found | {"rows": pq.read_table(layout.final / ROWS).to_pylist()}
        weights = sha256(layout.final / "model.safetensors")
        return found | {"losses": losses(given), "weights": weights}

    def attempt(self, given: StageOrder, fault: Fault = NONE, result: Path | None = None) -> int:
        """The exit code of an attempt that meets a fault; its result lies in its directory."""
        return suffered(given, result or result_file(given), fault)


def _lasting(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that do not measure time or memory."""
    told = re.compile(r"probe_|loss|reward|kl|entropy|rows|yield|samples|answers|_norm|accuracy")
    return {name: number for name, number in metrics.items() if told.match(name)}


def result_file(given: StageOrder) -> Path:
    """Where `coldstart run` has an attempt leave its result."""
    directory = output(given).attempt(given.attempt)
    directory.mkdir(parents=True, exist_ok=True)
    return directory / "result.json"


def undisturbed(case: Case, storage: Path) -> Undisturbed:
    """Let one attempt of a stage end."""
    given = case.order(storage)
    loaded()
    began = time.monotonic()
    assert case.attempt(given) == 0, log(given)
    seconds = time.monotonic() - began
    outcome = case.outcome(given, read_result(result_file(given)))
    return Undisturbed(tuple(recorded(result_file(given))), outcome, seconds, storage)


def log(given: StageOrder) -> str:
    """The end of an attempt's log."""
    return Path(f"{result_file(given)}.log").read_text()[-3000:]


def kills(
    operations: tuple[Operation, ...],
    count: int,
    seed: int,
    known: tuple[Operation, ...] = (),
) -> list[Fault]:
    """Kills at so many operations: of each kind on each file, and the rest at random.

    Args:
        known: of another stage, whose kinds are left to it.
    """
    generator = random.Random(seed)
    chosen = points(operations, count, generator, known=known)
    return [Fault(operation, _way(operation, generator)) for operation in chosen]


def points(
    operations: tuple[Operation, ...],
    count: int,
    generator: random.Random,
    *,
    all_kinds: bool = True,
    known: tuple[Operation, ...] = (),
) -> list[Operation]:
    """So many operations, of as many kinds as there are, or can be.

    It is all one at which of the saves an operation is met, and which of a checkpoint's files is
    brought to the disk or removed, but for the manifest.
    """
    kinds: dict[tuple[str, str], list[Operation]] = {}
    for operation in operations:
        if not operation.path.endswith(("result.json.log", "result.json.operations")):
            kinds.setdefault(_kind(operation), []).append(operation)
    new = kinds.keys() - {_kind(operation) for operation in known}
    chosen = [generator.choice(kinds[key]) for key in sorted(new)]
    if not all_kinds:
        chosen = generator.sample(chosen, min(count, len(chosen)))
    assert len(chosen) <= count, f"there are {len(chosen)} kinds of operations: raise the count"
    rest = [item for key in sorted(kinds) for item in kinds[key] if item not in chosen]
    return chosen + generator.sample(rest, min(count - len(chosen), len(rest)))


def _kind(operation: Operation) -> tuple[str, str]:
    path = re.sub(r"checkpoint-\d+", "checkpoint-*", operation.path)
    path = re.sub(r"^run/(sft|grpo)/", "run/*/", path)
    if operation.kind in ("fsync", "unlink") and MANIFEST not in path:
        path = re.sub(r"(checkpoint-\*|final\.partial)/.+", r"\1/*", path)
    return operation.kind, path


def _way(operation: Operation, generator: random.Random) -> Action:
    ways = [Action.KILL_BEFORE, Action.KILL_AFTER]
    return generator.choice([*ways, Action.KILL_WITHIN] if operation.kind == "write" else ways)


def require_whole_or_none(given: StageOrder, damaged: frozenset[str] = frozenset()) -> None:
    """What a kill may leave: whole checkpoints, and torn ones that have no manifest."""
    layout = output(given)
    for directory in [*layout.checkpoints.glob("checkpoint-*"), layout.final]:
        if (directory / MANIFEST).exists() and directory.name not in damaged:
            verify(directory)
    path = result_file(given)
    if path.exists():
        read_result(path)


def answered(rows: Path) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A teacher that is always right."""
    answers = {
        base64.b64encode((rows.parent / f"{row['id'][1:]}.png").read_bytes()).decode(): row[
            "answer"
        ]
        for row in json_lines(rows)
    }

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        parts = [part for message in request["messages"] for part in message["content"]]
        [url] = {p["image_url"]["url"] for p in parts if isinstance(p, dict) and "image_url" in p}
        return completion(f"It is \\boxed{{{answers[url.partition(',')[2]]}}}.")

    return answer


@pytest.fixture(scope="session")
def disturb(tiny_model, tiny_rows, tmp_path_factory):
    """A function: a stage, and how it ends undisturbed, which is tried once for each."""
    known = {}
    with serving(answered(tiny_rows)) as (_, teacher):

        def found(stage):
            if stage not in known:
                case = Case(stage, tiny_model, tiny_rows, teacher)
                known[stage] = case, undisturbed(case, tmp_path_factory.mktemp("whole") / "runs")
            return known[stage]

        yield found


def goes_on(case: Case, given: StageOrder, whole: Undisturbed) -> None:
    """Another attempt ends well, and as if it had been the first."""
    assert case.attempt(given) == 0, log(given)
    assert case.outcome(given, read_result(result_file(given))) == whole.outcome
