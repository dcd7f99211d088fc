"""What an evaluation adds to the bare engine's generate time on the same prompts.

Usage: python benchmarks/evaluation.py [--engine vllm] [--problems 32] [--tokens 128] [--rounds 5]
    [--json]

A random Qwen2.5-VL answers problems with an image each; hardly a response ends before its limit.
Ours is all of the stage but loading: prompts and pixels made, responses decoded, graded by rules,
and appended to samples.jsonl, with thumbnails and progress. Bare is transformers' `generate` on
batches that are tensors already, or vLLM's `LLM.generate` on the same requests, its caches emptied
before each round of either. Both take turns in one process, after a round each that does not count.
On a busy machine what stands in `share_ratio` says more: ours by the `generate` within it.
"""

# ruff: noqa: SLF001 - it measures the inside of a stage

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import PartialState
from grpo_rig import Shapes, model, processor
from PIL import Image

from coldstart.grading import Grader
from coldstart.layout import output
from coldstart.stage import StageOrder
from coldstart_trainer import evaluation, inputs
from coldstart_trainer.generation import Batches, Responder
from coldstart_trainer.model import load_processor
from coldstart_trainer.offline.responses import Responses, _Asked
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.samples import SampleStore, Thumbnails

SIDE = 224
"""Of an image, in pixels: 64 tokens."""

SHAPES = Shapes(hidden=512, layers=8, heads=8, key_heads=2, inner=1536)


@dataclass(frozen=True)
class Turn:
    """How long one round took."""

    seconds: float
    processor: float
    """Of this process, all its threads; vLLM's and the grader's have processes of their own."""


@dataclass
class Bench:
    """A stage, ready to answer."""

    stage: Any
    benchmark: Any
    rows: Any
    source: Any
    responder: Responder
    asked: int = 0
    within: float = 0.0
    """Seconds in transformers' `generate` in this round of ours."""

    def ours(self) -> None:
        """Answer all problems, grade and keep what comes."""
        self.asked += 1
        self.within = 0.0
        origin = self.stage._origin(self.benchmark, self.rows, self.source)
        store = SampleStore(self.stage.layout.benchmark("base", f"round-{self.asked}"), origin)
        store.open()
        images = Thumbnails(self.stage.layout.images)
        task = evaluation._Task("base", self.benchmark, self.rows, store, None, images)
        self.stage._complete(task, self.responder, [])
        found = len(store.samples())
        assert found == len(self.rows), f"{found} responses for {len(self.rows)} problems"


def main() -> None:
    """Measure, and show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--problems", type=int, default=32, help="how many are asked in a round")
    parser.add_argument("--tokens", type=int, default=128, help="the length of every response")
    parser.add_argument("--rounds", type=int, default=5, help="of each; the median counts")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp())
    datasets.config.HF_DATASETS_CACHE = place / "cache"
    try:
        with Grader() as grader:
            found = measured(bench(options, place, grader), options.rounds)
    finally:
        shutil.rmtree(place)
    for name, value in found.items():
        print(f"{name:24} {value:g}")
    if options.json:
        print(json.dumps(found))
    sys.stdout.flush()


def measured(made: Bench, rounds: int) -> dict[str, float]:
    """Medians of both, and the ratio of each pair of turns' median."""
    bare, empty = (vllm if isinstance(made.responder, Responses) else transformers_)(made)
    turns: dict[str, tuple[Work, list[Turn]]] = {"bare": (bare, []), "ours": (made.ours, [])}
    shares = []
    for number in range(rounds + 1):
        for work, taken in turns.values():
            empty()
            turn = timed(work)
            if number:
                taken.append(turn)
        if number and made.within:
            shares.append(turn.seconds / made.within)
    pairs = list(zip(turns["ours"][1], turns["bare"][1], strict=True))
    found = {}
    for name in ("seconds", "processor"):
        for who, (_, taken) in turns.items():
            found[f"{who}_{name}"] = statistics.median(getattr(turn, name) for turn in taken)
        ratios = [getattr(one, name) / getattr(other, name) for one, other in pairs]
        found[f"{name}_ratio"] = round(statistics.median(ratios), 3)
    if shares:
        found["share_ratio"] = round(statistics.median(shares), 3)
    made.responder.close()
    return found | {"load": os.getloadavg()[0]}


def timed(work: Callable[[], None]) -> Turn:
    """One round."""
    begun, own = time.perf_counter(), time.process_time()
    work()
    return Turn(time.perf_counter() - begun, time.process_time() - own)


def bench(options: argparse.Namespace, place: Path, grader: Grader) -> Bench:
    """A model, problems, and the stage that asks them."""
    directory = place / "model"
    made = processor()
    built = model(SHAPES, made.tokenizer)
    built.save_pretrained(directory)
    made.save_pretrained(directory)
    settings = json.dumps({"video_processor_type": "Qwen2VLVideoProcessor"})
    (directory / "video_preprocessor_config.json").write_text(settings)
    problems(place, options.problems)
    order = ordered(options, place, directory)
    progress = ProgressLog(place / "metrics.jsonl", 1)
    output(order).root.mkdir(parents=True)
    spec = order.spec.evaluation
    assert spec is not None
    stage = evaluation._Stage(order, spec, progress, grader, PartialState(cpu=True))
    [source] = inputs.resolve(order)
    reader = load_processor(directory, order.spec.conversation)
    rows = stage._rows(0, spec.benchmarks[0], source, reader)
    return Bench(stage, spec.benchmarks[0], rows, source, stage._responder(source, reader, [rows]))


def problems(place: Path, count: int) -> None:
    """Rows with an image each."""
    draw = np.random.default_rng(0)
    lines = []
    for number in range(count):
        noise = draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(noise).save(place / f"{number}.png")
        text = "What is the area of the figure? " * 4
        row = {"images": [f"{number}.png"], "problem": text, "answer": str(number)}
        lines.append(json.dumps(row))
    (place / "rows.jsonl").write_text("\n".join(lines))


def ordered(options: argparse.Namespace, place: Path, directory: Path) -> StageOrder:
    """The order of an evaluation on the CPU."""
    found = StageOrder.parse(
        {
            "run": {"name": "r", "uid": "u"},
            "stage": "evaluation",
            "attempt": 1,
            "spec": {
                "model": {"name": str(directory)},
                "conversation": {
                    "minPixels": SIDE**2,
                    "maxPixels": SIDE**2,
                    "maxPromptTokens": 512,
                    "maxCompletionTokens": options.tokens,
                },
                "evaluation": {
                    "benchmarks": [{"name": "p", "dataset": {"name": str(place / "rows.jsonl")}}],
                    "resources": {"gpusPerNode": 0},
                    "precision": "fp32",
                    "engine": options.engine,
                    "concurrency": 16,
                },
            },
            "inputs": [{"name": "base", "location": str(directory)}],
            "storage": str(place / "runs"),
            "workdir": str(place),
        }
    )
    assert isinstance(found, StageOrder)
    return found


Work = Callable[[], None]


def transformers_(made: Bench) -> tuple[Work, Work]:
    """`generate` on the tensors that an evaluation gave it; it has no caches to empty."""
    responder = made.responder
    assert isinstance(responder, Batches)
    calls: list[dict[str, Any]] = []
    made.ours()
    bare = responder._model.generate

    def record(**arguments: Any) -> Any:
        calls.append(arguments)
        return bare(**arguments)

    responder._model.generate = record
    made.ours()

    def within(**arguments: Any) -> Any:
        begun = time.perf_counter()
        found = bare(**arguments)
        made.within += time.perf_counter() - begun
        return found

    responder._model.generate = within

    def work() -> None:
        with torch.inference_mode():
            for arguments in calls:
                bare(**arguments)

    return work, lambda: None


def vllm(made: Bench) -> tuple[Work, Work]:
    """`LLM.generate` on the requests of an evaluation, and what empties the engine's caches."""
    responder = made.responder
    assert isinstance(responder, Responses)
    engine: Any = responder._started()
    from vllm import SamplingParams  # noqa: PLC0415 - it may not be installed

    requests = list(
        _Asked(responder, made.rows.data).requests((row, 0) for row in range(len(made.rows)))
    )
    parameters = [SamplingParams(**responder._sampling(each.key)) for each in requests]

    def empty() -> None:
        engine._llm.reset_prefix_cache()
        engine._llm.reset_mm_cache()

    def work() -> None:
        engine._llm.generate([each.prompt for each in requests], parameters, use_tqdm=False)

    return work, empty


if __name__ == "__main__":
    main()
