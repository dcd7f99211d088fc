"""A run's directory built by hand: made-up curves and responses in the forms that stages write."""

import hashlib
import json
import math
import random
import struct
import zlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from coldstart import layout
from coldstart.estimates import reflection
from coldstart.files import append_json_line
from coldstart.intervals import wilson
from coldstart.layout import RunLayout
from coldstart.lexicon import MAYE_LIST
from coldstart.metrics import Progress
from coldstart.results import BenchmarkResult, KindResult, Sample
from coldstart.run import ReasoningRun
from coldstart.spec import Stage
from coldstart.stage import CheckpointManifest
from coldstart.status import (
    CheckpointRef,
    Condition,
    RunStatus,
    StageError,
    StageState,
    StageStatus,
    Verdict,
)

START = datetime(2026, 9, 14, 10, 2, 31, tzinfo=UTC)
DIGEST = "sha256:" + "5f" * 32
GLYPHS = (
    ("0111010001100111010111001100010111000000", "0010001100001000010000100001000111000000"),
    ("0111010001000010001000100010001111100000", "1111100010001000001000001100010111000000"),
    ("0001000110010100100101111100010000100000", "1111110000111100000100001100010111000000"),
    ("0011001000100001111010001100010111000000", "1111100001000100010001000010000100000000"),
    ("0111010001100010111010001100010111000000", "0111010001100010111100001000100110000000"),
)


@dataclass(frozen=True)
class Skill:
    """How often a made-up checkpoint answers with care, and how often it is right then."""

    careful: float
    right: float
    reflects: float
    rambles: float = 0.0


SKILLS = {
    "base": Skill(careful=0.0, right=0.0, reflects=0.0, rambles=0.55),
    "sft": Skill(careful=0.37, right=0.9, reflects=0.06),
    "grpo": Skill(careful=0.93, right=0.92, reflects=0.02),
}


def document(name: str = "digits", stages: tuple[str, ...] = ("sft", "grpo", "evaluation")) -> dict:
    """The run.yaml of a small run, as a document."""
    one_cpu = {"gpusPerNode": 0}
    sections = {
        "sft": {
            "dataset": {"name": "data/sft.parquet"},
            "epochs": 2,
            "learningRate": 1e-3,
            "batchSize": 32,
            "resources": one_cpu,
            "precision": "fp32",
            "gate": {"minBoxedShare": 0.8, "maxLoss": 1.5},
        },
        "grpo": {
            "dataset": {"name": "data/rl.parquet"},
            "groupSize": 8,
            "promptsPerStep": 16,
            "updatesPerStep": 1,
            "microBatchSize": 32,
            "learningRate": 2e-4,
            "resources": one_cpu,
            "precision": "fp32",
            "rewards": [{"name": "accuracy"}, {"name": "format", "weight": 0.1}],
            "gate": {"minAccuracy": 0.5},
        },
        "evaluation": {
            "benchmarks": [{"name": "held-out", "dataset": {"name": "data/test.parquet"}}],
            "decoding": {"temperature": 1.0},
            "resources": one_cpu,
            "responseKinds": [
                {"name": "reasons", "pattern": r"\d+\+\d+="},
                {"name": "guesses", "pattern": r"looks like"},
            ],
        },
    }
    return {
        "apiVersion": "coldstart.dev/v1alpha1",
        "kind": "ReasoningRun",
        "metadata": {"name": name, "uid": "4f7e", "generation": 1},
        "spec": {
            "model": {"name": "model"},
            "conversation": {"minPixels": 784, "maxPixels": 12_544, "maxCompletionTokens": 48},
            **{stage: sections[stage] for stage in stages},
        },
    }


def finished_run(
    parent: Path,
    name: str = "digits",
    stages: tuple[str, ...] = ("sft", "grpo", "evaluation"),
    *,
    problems: int = 40,
    seed: int = 0,
    spec: dict | None = None,
) -> Path:
    """A run that went through its stages, SFT with one kill on the way."""
    asked = document(name, stages)
    asked["spec"] |= spec or {}
    run = ReasoningRun.parse(asked)
    where = RunLayout(parent / name)
    where.root.mkdir(parents=True)
    draw = random.Random(seed)
    if "sft" in stages:
        write_sft(where, draw)
    if "grpo" in stages:
        write_grpo(where, draw)
    for stage in ("sft", "grpo"):
        if stage in stages:
            write_manifest(where, run, stage)
    if "evaluation" in stages:
        write_evaluation(where, run, problems, draw)
    write_status(where, run, _finished(stages))
    return where.root


def write_status(where: RunLayout, run: ReasoningRun, status: RunStatus) -> None:
    """The run's status file."""
    whole = run.model_copy(update={"status": status})
    where.status.write_text(json.dumps(whole.document()))


def _finished(stages: tuple[str, ...]) -> RunStatus:
    entries, clock = [], START
    for stage in stages:
        began, clock = clock, clock + timedelta(seconds={"sft": 62, "grpo": 97}.get(stage, 41))
        entries.append(
            StageStatus(
                name=stage,
                state=StageState.SUCCEEDED,
                attempt=2 if stage == "sft" else 1,
                failures=1 if stage == "sft" else 0,
                started_at=began,
                attempt_started_at=began,
                finished_at=clock,
                checkpoint=None if stage == "evaluation" else _reference(stage),
                metrics={"probe_accuracy": 0.36, "probe_boxed_share": 1.0, "loss": 0.61},
                gates=_verdicts(stage),
            )
        )
    return RunStatus(
        phase="Succeeded",
        message="all stages have succeeded",
        stages=tuple(entries),
        conditions=(
            Condition(
                type="Succeeded",
                status="True",
                reason="AllStagesSucceeded",
                last_transition_time=clock,
            ),
        ),
        started_at=START,
        finished_at=clock,
    )


def _reference(stage: str) -> CheckpointRef:
    step = 300 if stage == "sft" else 80
    return CheckpointRef(location=f"digits/{stage}/final", digest=DIGEST, step=step)


def _verdicts(stage: str) -> tuple[Verdict, ...]:
    present = Verdict(name="checkpoint", passed=True)
    if stage == "sft":
        return (
            present,
            Verdict(name="minBoxedShare", observed=1.0, threshold=0.8, passed=True),
            Verdict(name="maxLoss", observed=0.6123, threshold=1.5, passed=True),
        )
    if stage == "grpo":
        return (
            present,
            Verdict(name="minAccuracy", observed=0.859375, threshold=0.5, passed=True),
        )
    return ()


def write_manifest(where: RunLayout, run: ReasoningRun, stage: str) -> None:
    """The manifest of a stage's final checkpoint, without the checkpoint."""
    final = where.stage(stage).final
    final.mkdir(parents=True)
    other = {"name": f"data/{stage}.parquet", "fingerprint": "9c1f4b", "rows": 5940}
    manifest = {
        "run": {"name": run.metadata.name, "uid": "4f7e"},
        "stage": stage,
        "attempt": 1,
        "step": 300,
        "final": True,
        "files": [{"path": "model.safetensors", "size": 1, "sha256": "0" * 64}],
        "fingerprints": dict.fromkeys(
            ("baseModel", "tokenizer", "processor", "conversation"), DIGEST
        ),
        "seed": 42,
        "datasets": [other | {"dropped": {"response too long": 12, "image undecodable": 1}}],
        "versions": {"torch": "2.13.0+cpu", "transformers": "5.17.0", "trl": "1.16.0"},
        "order": {"spec": run.spec.document()},
        "orderHash": DIGEST,
        "createdAt": START.isoformat(),
    }
    CheckpointManifest.parse(manifest)
    (final / "coldstart.json").write_text(json.dumps(manifest))


def write_line(
    where: RunLayout, stage: str, attempt: int, done: int, total: int, values: dict[str, float]
) -> None:
    """One line of a stage's metrics."""
    directory = where.stage(stage)
    directory.root.mkdir(parents=True, exist_ok=True)
    pace, began = (1.1, 65) if stage == "grpo" else (0.17, 4 + 10 * (attempt - 1))
    offset = began + done * pace
    line = Progress(
        time=START.timestamp() + offset,
        attempt=attempt,
        phase="train",
        done=done,
        total=total,
        values=values,
    )
    append_json_line(directory.metrics, line.document())


def write_sft(where: RunLayout, draw: random.Random) -> None:
    """300 updates; killed at 147, resumed from 141 on."""
    for attempt, first, last in ((1, 1, 147), (2, 141, 300)):
        for step in range(first, last + 1):
            loss = 0.55 + 2.4 * math.exp(-step / 38) + draw.gauss(0, 0.05)
            values = {
                "loss": loss,
                "grad_norm": 0.6 + 2.5 * math.exp(-step / 30) + abs(draw.gauss(0, 0.2)),
                "learning_rate": 5e-4 * (1 + math.cos(math.pi * step / 300)),
                "token_accuracy_ratio": min(
                    0.999, 0.86 - 0.7 * math.exp(-step / 42) + draw.gauss(0, 0.01)
                ),
            }
            write_line(where, "sft", attempt, step, 300, values)
            if step % 20 == 0:
                held_out = 0.58 + 2.3 * math.exp(-step / 37)
                write_line(where, "sft", attempt, step, 300, {"eval_loss": held_out})


def write_grpo(where: RunLayout, draw: random.Random) -> None:
    """80 updates."""
    for step in range(1, 81):
        rise = 1 - math.exp(-step / 12)
        right = min(1.0, 0.36 + 0.52 * rise + draw.gauss(0, 0.035))
        form = min(1.0, 0.97 + 0.03 * rise + draw.gauss(0, 0.004))
        mean = 16 + 12 * rise + draw.gauss(0, 0.5)
        low, high = abs(draw.gauss(0.004, 0.002)), abs(draw.gauss(0.006, 0.003))
        values = {
            "reward_total_mean": right + 0.1 * form,
            "reward_mean{accuracy}": right,
            "reward_mean{format}": form,
            "completion_tokens_mean": mean,
            "completion_tokens_min": mean - 6 - draw.random() * 3,
            "completion_tokens_max": min(48.0, mean + 8 + draw.random() * 6),
            "completion_truncated_ratio": max(
                0.0, 0.02 * math.exp(-step / 9) + draw.gauss(0, 0.002)
            ),
            "groups_zero_variance_ratio{right}": min(
                1.0, round((0.06 + 0.5 * rise) * 16 + draw.gauss(0, 1)) / 16
            ),
            "groups_zero_variance_ratio{wrong}": round(max(0, 2 - 2 * rise)) / 16,
            "kl_nats": max(0.0, 0.09 * rise + draw.gauss(0, 0.004)),
            "policy_entropy_nats": 0.62 - 0.4 * rise + draw.gauss(0, 0.012),
            "clip_low_ratio": low,
            "clip_high_ratio": high,
            "clip_region_ratio": low + high,
            "grad_norm": 0.9 + 0.5 * math.exp(-step / 20) + abs(draw.gauss(0, 0.15)),
            "learning_rate": 2e-4,
        }
        write_line(where, "grpo", 1, step, 80, values)


def write_evaluation(
    where: RunLayout, run: ReasoningRun, problems: int, draw: random.Random
) -> None:
    """Every checkpoint of the run on the same problems, for each benchmark."""
    where.images.mkdir(parents=True)
    for benchmark in run.spec.evaluation.benchmarks:
        asked = [tuple(draw.randrange(10) for _ in range(3)) for _ in range(problems)]
        hashes = [_image(where, digits) for digits in asked]
        for checkpoint in run.spec.evaluated:
            answered = [
                _sample(
                    str(place), digits, hashes[place], SKILLS.get(checkpoint, SKILLS["sft"]), draw
                )
                for place, digits in enumerate(asked)
            ]
            write_results(where, checkpoint, benchmark.name, answered)


def write_results(
    where: RunLayout, checkpoint: str, benchmark: str, answered: list[Sample]
) -> BenchmarkResult:
    """Samples and what they add up to, as the evaluation writes them."""
    directory = where.benchmark(checkpoint, benchmark)
    directory.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(sample.document(), ensure_ascii=False) for sample in answered]
    layout.samples(directory).write_text("\n".join(lines) + "\n")
    result = summed(checkpoint, benchmark, answered)
    layout.results(directory).write_text(json.dumps(result.document()))
    return result


def summed(checkpoint: str, benchmark: str, answered: list[Sample]) -> BenchmarkResult:
    """What samples add up to."""
    n = len(answered)
    right = sum(sample.correct for sample in answered)
    bounds = wilson(right, n)
    groups = {
        "reasons": [s for s in answered if "+" in s.response],
        "guesses": [s for s in answered if "looks like" in s.response],
    }
    return BenchmarkResult(
        checkpoint=checkpoint,
        digest=None if checkpoint == "base" else DIGEST,
        benchmark=benchmark,
        accuracy=right / n,
        low=bounds.low,
        high=bounds.high,
        n=n,
        problems=n,
        boxed_share=sum(s.boxed for s in answered) / n,
        truncated_share=sum(s.truncated for s in answered) / n,
        mean_tokens=sum(s.tokens for s in answered) / n,
        outcomes=dict(Counter(sample.outcome for sample in answered)),
        reflection=reflection(answered, MAYE_LIST),
        kinds={
            name: KindResult(
                share=len(group) / n,
                accuracy=sum(s.correct for s in group) / len(group) if group else None,
                n=len(group),
            )
            for name, group in groups.items()
        },
        decoding={"temperature": 1.0},
    )


def _sample(
    place: str, digits: tuple[int, ...], image: str, skill: Skill, draw: random.Random
) -> Sample:
    gold = sum(digits)
    if draw.random() < skill.rambles:
        text, found = " ".join(str(draw.randrange(10)) for _ in range(24)), None
    elif draw.random() < skill.careful:
        found = gold if draw.random() < skill.right else gold + draw.choice((-3, -1, 1, 2))
        a, b, c = digits[0], digits[1], found - digits[0] - digits[1]
        text = f"I read {a} {b} {c}. {a}+{b}={a + b}, {a + b}+{c}={found}. "
        if draw.random() < skill.reflects:
            text += f"Wait, let me check again: {a + b}+{c}={found}. "
        text += f"The sum is \\boxed{{{found}}}."
    else:
        found = draw.randrange(28)
        text = f"It looks like \\boxed{{{found}}}."
    outcome = "no_answer" if found is None else ("correct" if found == gold else "wrong")
    return Sample(
        id=place,
        problem="What is the sum of the digits?",
        images=(image,),
        gold=str(gold),
        response=text,
        tokens=len(text.split()) + text.count("+") * 2,
        truncated=found is None,
        boxed=found is not None,
        extracted=None if found is None else str(found),
        outcome=outcome,
    )


def _image(where: RunLayout, digits: tuple[int, ...]) -> str:
    data = picture(digits)
    name = hashlib.sha256(data).hexdigest()
    (where.images / f"{name}.png").write_bytes(data)
    return name


def picture(digits: tuple[int, ...]) -> bytes:
    """A PNG of digits: white on black, 28 pixels high, as the quickstart's."""
    rows = [bytearray(28 * len(digits)) for _ in range(28)]
    for column, digit in enumerate(digits):
        glyph = GLYPHS[digit // 2][digit % 2]
        for place, bit in enumerate(glyph[:35]):
            if bit == "1":
                x, y = column * 28 + 6 + place % 5 * 3, 3 + place // 5 * 3
                for dy in range(3):
                    rows[y + dy][x : x + 3] = b"\xf0\xf0\xf0"
    raw = b"".join(b"\0" + bytes(row) for row in rows)
    header = struct.pack(">IIBBBBB", 28 * len(digits), 28, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*chunk) for chunk in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def failed(run_dir: Path, message: str = "row 17: the image cannot be decoded") -> None:
    """Turn a finished run into one whose GRPO failed before it measured anything."""
    where = RunLayout(run_dir)
    run = ReasoningRun.parse(json.loads(where.status.read_text()))
    error = StageError(code="DatasetInvalid", message=message)
    broken = StageStatus(
        name=Stage.GRPO.value, state=StageState.FAILED, attempt=1, error=error, started_at=START
    )
    stages = tuple(broken if stage.name == "grpo" else stage for stage in run.status.stages[:2])
    condition = Condition(
        type="Failed", status="True", reason="DatasetInvalid", last_transition_time=START
    )
    status = RunStatus(
        phase="Failed",
        message=f"grpo failed: {message}",
        stages=stages,
        conditions=(condition,),
        started_at=START,
        finished_at=START + timedelta(seconds=75),
    )
    write_status(where, run, status)
