"""The evaluation stage: checkpoints answer benchmarks, every response is kept; nothing is trained.

What is there of an earlier attempt is kept; the missing responses come out as they would have.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import datasets
import torch
from accelerate import PartialState

from coldstart import record
from coldstart.benchmarks import FACETS, published
from coldstart.evaluation import Benchmark, Decoding, Evaluation
from coldstart.grading import Grader, extract
from coldstart.judging import EndpointError, Judge, judge_factory
from coldstart.layout import RunLayout
from coldstart.metrics import series
from coldstart.report import CARRIED, traced_run, write_report
from coldstart.report.scores import score_metrics
from coldstart.results import BenchmarkResult, Sample
from coldstart.spec import Conversation
from coldstart.stage import StageOrder
from coldstart.status import ErrorCode
from coldstart.summary import (
    Origin,
    graded,
    matcher_versions,
    regraded,
    summarise,
    write_result,
    write_samples,
)
from coldstart_trainer import data, gang, model, phases
from coldstart_trainer.data import Rows
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.generation import Batches, Completion, Key, Responder, generate
from coldstart_trainer.inputs import Input
from coldstart_trainer.offline.responses import Responses
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.resources import resources
from coldstart_trainer.rollout.settings import most_images, require_vllm
from coldstart_trainer.samples import SampleStore, Thumbnails

ROUNDS_BEHIND = 2
"""Rounds of responses that may be made while earlier ones are still graded and kept."""

_FIELD = "spec.evaluation"

log = logging.getLogger(__name__)


def run(order: StageOrder, inputs: Sequence[Input], progress: ProgressLog) -> dict[str, float]:
    """Score the checkpoints of an order; the numbers of the result.

    `accuracy_<checkpoint>` is the unweighted mean over the benchmarks, with the ends of its
    interval and the number of responses; where there are several benchmarks,
    `accuracy_<checkpoint>_<benchmark>` is there as well. Where nobody else does it, the run's
    report is written, too.

    Raises:
        DataError, ModelError, StageFailure: with the code of the result.
        OSError: the storage is full or cannot be written.
    """
    spec = order.spec.evaluation
    assert spec is not None
    _require_devices(spec)
    if spec.engine == "vllm":
        require_vllm(f"{_FIELD}.engine", f"{_FIELD}.decoding", spec.decoding.temperature)
    # With vLLM the GPUs are its processes'.
    state = gang.meet(cpu=spec.resources.gpus_per_node == 0 or spec.engine == "vllm")
    results: list[BenchmarkResult] = []
    judges = _judges(order, state)
    with Grader() as grader:
        stage = _Stage(order, spec, progress, grader, state, judges)
        for source in inputs:
            results += stage.score(source)
    numbers = metrics(results)
    if state.is_main_process:
        _report(order, numbers)
    return numbers


def metrics(results: Iterable[BenchmarkResult]) -> dict[str, float]:
    """The numbers of the stage's result, those of most interest first."""
    found: dict[str, list[BenchmarkResult]] = {}
    for result in results:
        found.setdefault(result.checkpoint, []).append(result)
    numbers: dict[str, float] = {}
    for name, of in found.items():
        numbers |= score_metrics(name, of)
    for name, of in found.items():
        numbers[f"boxed_share_{name}"] = fmean(result.boxed_share for result in of)
        numbers[f"mean_tokens_{name}"] = fmean(result.mean_tokens for result in of)
    for name, of in found.items():
        if len(of) > 1:
            numbers |= {f"accuracy_{name}_{result.benchmark}": result.accuracy for result in of}
    return numbers


def _report(order: StageOrder, numbers: Mapping[str, float]) -> None:
    """Write the run's report, unless its `coldstart run` will."""
    layout = RunLayout(Path(order.storage) / order.run.name)
    try:
        recorded = record.read(layout)
        if recorded is None or recorded.metadata.uid != order.run.uid:
            run = traced_run(order, numbers, datetime.now(UTC))
            log.info("wrote %s", write_report(layout.root, run, CARRIED))
    except Exception:
        # The stage has done its work, whatever there is in files that others wrote.
        log.exception("%s could not be written", layout.report)


def probe(
    policy: Any,
    processor: Any,
    rows: datasets.Dataset,
    *,
    conversation: Conversation,
    batch_size: int,
    seed: int,
    on_progress: Callable[[int, int], None] | None = None,
    synced: bool = False,
) -> dict[str, float]:
    """How a model does on a few rows, decoded greedily: what a gate judges.

    The gold answer of a row without one is the last box of its response; a row with neither is
    not asked.

    Returns:
        `probe_accuracy`, `probe_boxed_share`, `probe_mean_tokens` and `probe_n`; only the last,
        which is 0, where no row can be asked.
    """
    columns = {name: rows[name][:] for name in ("answer", "response") if name in rows.column_names}
    golds = [_gold(columns, index) for index in range(len(rows))]
    asked = [index for index, gold in enumerate(golds) if gold]
    if not asked:
        return {"probe_n": 0.0}
    rows = rows.select(asked)
    rounds = generate(
        policy,
        processor,
        rows,
        conversation=conversation,
        decoding=Decoding(),
        batch_size=batch_size,
        seed=seed,
        on_progress=on_progress,
        synced=synced,
    )
    completions = [completion for made in rounds for completion in made]
    with Grader() as grader:
        grades = grader.grade_all(
            (completion.text, golds[asked[completion.row]] or "") for completion in completions
        )
    return {
        "probe_accuracy": fmean(grade.correct for grade in grades),
        "probe_boxed_share": fmean(grade.boxed for grade in grades),
        "probe_mean_tokens": fmean(completion.tokens for completion in completions),
        "probe_n": float(len(completions)),
    }


@dataclass
class _Stage:
    """What all checkpoints and benchmarks of one evaluation share."""

    order: StageOrder
    spec: Evaluation
    progress: ProgressLog
    grader: Grader
    state: PartialState
    judges: Callable[[Path], Judge] | None = None
    loaded: dict[tuple[int, str, str], Rows] = field(default_factory=dict)
    named: dict[tuple[str, str], dict[int, tuple[str, ...]]] = field(default_factory=dict)
    """The thumbnails of each benchmark's problems, by what was loaded and row."""

    @property
    def layout(self) -> RunLayout:
        return RunLayout(Path(self.order.storage) / self.order.run.name)

    def score(self, source: Input) -> list[BenchmarkResult]:
        """The results of one checkpoint; it is loaded only if a response of it is missing."""
        processor = model.load_processor(source.directory, self.order.spec.conversation)
        # All are looked at before the first is answered.
        rows = [
            self._rows(n, each, source, processor) for n, each in enumerate(self.spec.benchmarks)
        ]
        with contextlib.closing(self._responder(source, processor, rows)) as responder:
            return [
                self._benchmark(benchmark, found, source, responder)
                for benchmark, found in zip(self.spec.benchmarks, rows, strict=True)
            ]

    def _benchmark(
        self, benchmark: Benchmark, rows: Rows, source: Input, responder: Responder
    ) -> BenchmarkResult:
        """The result of one checkpoint on one benchmark."""
        origin = self._origin(benchmark, rows, source)
        store = SampleStore(self.layout.benchmark(source.name, benchmark.name), origin)
        judge = self.judges(store.directory) if self.judges else None
        if self.state.is_main_process:
            store.open()
            self._regrade(store, judge)
        self.state.wait_for_everyone()
        samples = store.samples()
        # Nobody may write before everybody has read.
        self.state.wait_for_everyone()
        if len(samples) < origin.responses:
            named = self.named.setdefault((benchmark.name, rows.entry.fingerprint), {})
            images = Thumbnails(self.layout.images)
            task = _Task(source.name, benchmark, rows, store, judge, images, named)
            self._complete(task, responder, samples)
            self.state.wait_for_everyone()
            samples = store.samples()
        result = self._result(store, samples, judge)
        self._tell(result)
        return result

    def _responder(self, source: Input, processor: Any, rows: Sequence[Rows]) -> Responder:
        """What makes the responses of a checkpoint."""
        conversation = self.order.spec.conversation
        if self.spec.engine == "vllm":
            images = max(most_images(found.data) for found in rows)
            return Responses(
                source.name, self.spec, conversation, source.directory, processor, images
            )
        return Batches(self.spec, conversation, source.directory, processor, self.state.device)

    def _regrade(self, store: SampleStore, judge: Judge | None) -> None:
        """Grade what is there with this run's matcher, where another has graded it."""
        samples = store.samples()
        if any(sample.matcher != self.spec.matcher for sample in samples):
            write_samples(store.directory, regraded(samples, self.grader, judge))

    def _rows(self, index: int, benchmark: Benchmark, source: Input, processor: Any) -> Rows:
        """The rows of a benchmark; which fit depends on tokenizer and processor only."""
        prints = source.fingerprints
        key = (index, prints.tokenizer, prints.processor)
        if key not in self.loaded:
            with self.state.local_main_process_first():
                self.loaded[key] = data.load(
                    benchmark.rows,
                    target="answer",
                    conversation=self.order.spec.conversation,
                    processor=processor,
                    workdir=Path(self.order.workdir),
                    seed=self.spec.seed,
                    field=f"{_FIELD}.benchmarks[{index}].dataset",
                    known=published(benchmark.name),
                )
        return self.loaded[key]

    def _origin(self, benchmark: Benchmark, rows: Rows, source: Input) -> Origin:
        prints, decoding = source.fingerprints, self.spec.decoding
        limit = decoding.max_completion_tokens or self.order.spec.conversation.max_completion_tokens
        sampling: dict[str, Any] = {
            "maxCompletionTokens": limit,
            "seed": self.spec.seed,
            "precision": self.spec.precision,
        }
        if self.spec.engine == "vllm":
            sampling["engine"] = "vllm"
        else:
            sampling["batchSize"] = self.spec.batch_size
        known = published(benchmark.name)
        return Origin.model_validate(
            {
                "checkpoint": source.name,
                "digest": source.digest,
                "base_model": prints.base_model,
                "tokenizer": prints.tokenizer,
                "processor": prints.processor,
                "conversation": prints.conversation,
                "benchmark": benchmark.name,
                "data": rows.entry.fingerprint,
                "decoding": decoding.document() | sampling,
                "responses": len(rows) * decoding.samples,
                "dropped": rows.entry.dropped,
                "published": known.rows if known else None,
            }
        )

    def _complete(self, task: _Task, responder: Responder, samples: Sequence[Sample]) -> None:
        """Make the missing responses; grade and keep them while the next are made."""
        known = task.keys(samples)
        rounds = responder.rounds(task.rows.data, known, partial(self._report, task))
        began = time.monotonic()
        with ThreadPoolExecutor(1, "keep") as thread:
            kept: deque[Future[None]] = deque()
            for completions in phases.each("generate", rounds):
                if self.state.is_main_process:
                    new = [item for item in completions if (item.row, item.sample) not in known]
                    kept.append(thread.submit(self._keep, task, new))
                with phases.phase("score"):
                    _wait(kept, ROUNDS_BEHIND)
                self._count(completions, time.monotonic() - began)
                began = time.monotonic()
            with phases.phase("score"):
                _wait(kept, 0)

    def _keep(self, task: _Task, completions: Sequence[Completion]) -> None:
        drafts = [task.draft(item) for item in completions]
        task.store.append(graded(drafts, self.grader, task.judge))

    def _count(self, completions: Sequence[Completion], seconds: float) -> None:
        """Measure a round of responses."""
        tokens = sum(completion.tokens for completion in completions)
        phases.lap()
        meter = self.progress.meter
        meter.add(series("tokens_total", "completion"), tokens)
        meter.add("samples_total", len(completions))
        meter.put(
            resources()
            | {
                "last_step_timestamp_seconds": time.time(),
                "tokens_per_second": tokens / seconds,
                "samples_per_second": len(completions) / seconds,
            }
        )

    def _report(self, task: _Task, done: int, total: int) -> None:
        checkpoint, benchmark = task.checkpoint, task.benchmark.name
        key = series("eval_samples_total", benchmark, checkpoint)
        label = f"{checkpoint}/{benchmark}"
        self.progress.write("evaluate", done, total, label=label, values={key: done})

    def _tell(self, result: BenchmarkResult) -> None:
        key = series("eval_accuracy_ratio", result.benchmark, result.checkpoint)
        self.progress.write(
            "evaluate",
            result.n,
            result.n,
            label=f"{result.checkpoint}/{result.benchmark}",
            values={key: result.accuracy},
        )

    def _result(
        self, store: SampleStore, samples: Sequence[Sample], judge: Judge | None
    ) -> BenchmarkResult:
        result = summarise(
            samples,
            store.origin,
            kinds=self.spec.response_kinds,
            words=self.order.spec.reflection,
            grader=self.grader if self.state.is_main_process else None,
            judge=judge,
            versions=matcher_versions(store.directory),
        )
        if self.state.is_main_process:
            write_result(store.directory, result)
        return result


@dataclass
class _Task:
    """One checkpoint on one benchmark."""

    checkpoint: str
    benchmark: Benchmark
    rows: Rows
    store: SampleStore
    judge: Judge | None
    images: Thumbnails
    named: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """The thumbnails that are known."""

    @cached_property
    def texts(self) -> datasets.Dataset:
        """The rows without their images, which need not be decoded again."""
        return self.rows.data.remove_columns("images")

    def keys(self, samples: Iterable[Sample]) -> set[Key]:
        """Which responses these samples are."""
        numbers = {name: row for row, name in enumerate(self.rows.data["id"])}
        return {(numbers[sample.id], sample.sample) for sample in samples}

    def thumbnails(self, row: int) -> tuple[str, ...]:
        """The thumbnails of a problem, which every response to it has, of every checkpoint."""
        if row not in self.named:
            self.named[row] = self.images.names(self.rows.data[row]["images"])
        return self.named[row]

    def draft(self, completion: Completion) -> Sample:
        """A response that is not graded yet."""
        row: Mapping[str, Any] = self.texts[completion.row]
        return Sample(
            id=row["id"],
            sample=completion.sample,
            problem=row["problem"],
            images=self.thumbnails(completion.row),
            gold=row["answer"],
            choices=tuple(row.get("choices") or ()),
            answer_type=row.get("answer_type"),
            precision=row.get("precision"),
            unit=row.get("unit"),
            cluster=row.get("cluster"),
            facets={name: row[name] for name in FACETS if row.get(name)},
            response=completion.text,
            tokens=completion.tokens,
            truncated=completion.truncated,
            boxed=False,
            outcome="ungraded",
        )


def _wait(kept: deque[Future[None]], behind: int) -> None:
    """Wait until no more rounds than these are still to be kept.

    Raises:
        OSError, EndpointError: one could not be.
    """
    while kept and (len(kept) > behind or kept[0].done()):
        kept.popleft().result()


def _judges(order: StageOrder, state: PartialState) -> Callable[[Path], Judge] | None:
    """What makes judges, on the one process that grades, if the run wants one.

    Raises:
        EndpointError: the endpoint does not serve; nothing has been generated yet.
        StageFailure: InvalidOrder.
    """
    spec = order.spec.evaluation
    if spec is None or spec.matcher != "judge" or not state.is_main_process:
        return None
    try:
        return judge_factory(spec.judge, Path(order.workdir))
    except EndpointError:
        raise
    except ValueError as error:
        raise StageFailure(ErrorCode.INVALID_ORDER, str(error)) from error


def _gold(columns: Mapping[str, Sequence[str | None]], index: int) -> str | None:
    if "answer" in columns and columns["answer"][index]:
        return columns["answer"][index]
    return extract(columns["response"][index] or "").span if "response" in columns else None


def _require_devices(spec: Evaluation) -> None:
    """Refuse to evaluate on less than the spec asks for.

    Raises:
        StageFailure: ResourcesMissing.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    started = int(os.environ.get("WORLD_SIZE", "1"))
    message = ""
    if there < spec.resources.gpus_per_node:
        message = (
            f"resources.gpusPerNode is {spec.resources.gpus_per_node}, but this machine has "
            f"{there} usable GPUs; set it to 0 to evaluate on the CPU"
        )
    elif started != spec.resources.world_size:
        message = (
            f"resources asks for {spec.resources.world_size} processes, torchrun started {started}"
        )
    if message:
        raise StageFailure(ErrorCode.RESOURCES_MISSING, f"{_FIELD}.{message}")
