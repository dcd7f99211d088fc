"""One attempt of the distill stage, from its questions to its rows; a stage without training."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coldstart import tasks
from coldstart.chat import Client, Limits
from coldstart.distill import Distill
from coldstart.endpoint import Endpoint
from coldstart.grading import Grader
from coldstart.layout import ROWS, output
from coldstart.metrics import series
from coldstart.stage import StageOrder, StageResult
from coldstart.status import ErrorCode
from coldstart.uses import Use
from coldstart_trainer import checkpoint, data, model
from coldstart_trainer.check.licences import UNKNOWN, licence
from coldstart_trainer.data import Rows
from coldstart_trainer.distill import card, serving
from coldstart_trainer.distill.journal import Journal
from coldstart_trainer.distill.questions import Question, questions
from coldstart_trainer.distill.rows import Distilled
from coldstart_trainer.distill.sampling import Sample, Sampler, chosen, usable
from coldstart_trainer.distill.verdicts import Verdicts
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.inputs import Input
from coldstart_trainer.progress import ProgressLog
from coldstart_trainer.resources import resources
from coldstart_trainer.rollout.settings import most_images
from coldstart_trainer.termination import TERMINATION, Terminated

THREADS = 4
"""Threads that grade answers and scale images while others are asked."""

TICK, SYNC, TELL = 0.2, 1.0, 2.0
"""Seconds between two looks for SIGTERM, two writes to the disk, two lines of progress."""

_FIELD = "spec.distill"

log = logging.getLogger(__name__)


def run(order: StageOrder, source: Input, progress: ProgressLog) -> StageResult:
    """One attempt of the stage; what was answered before is not asked again.

    Raises:
        DataError, ModelError, EndpointError, StageFailure: with the code of the result.
        Terminated: told to end; every answer so far is kept.
        OSError: the storage is full or cannot be written.
    """
    spec, conversation = order.spec.distill, order.spec.conversation
    assert spec is not None
    layout, workdir = output(order), Path(order.workdir)
    processor = model.load_processor(source.directory, conversation)
    rows = _questions(order, spec, processor)
    tokenizer = model.tokenizer_of(processor)

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]

    with (
        _teacher(order, spec, rows) as (teacher, watch),
        Journal(layout.answers) as journal,
        Grader() as grader,
        ThreadPoolExecutor(THREADS) as executor,
        TERMINATION.deferred(),
    ):
        sampler = Sampler(
            spec=spec,
            conversation=conversation,
            client=Client(teacher, _limits(spec), f"{_FIELD}.teacher"),
            journal=journal,
            verdicts=Verdicts(grader, count, conversation.max_completion_tokens, executor),
            executor=executor,
        )
        log.info("%d answers of earlier attempts are there", len(journal))
        samples = Asking(sampler, rows, progress, watch).samples()
        taken = list(_taken(samples, spec))
        tally = card.Tally(spec, rows.entry, samples, taken, sampler.cost, sampler.failures)
        _require_rows(tally)
        progress.write("save", len(rows), len(rows))
        partial = layout.root / "final.partial"
        checkpoint.cleared(partial)
        partial.mkdir()
        Distilled(spec, conversation, rows, journal).write(partial / ROWS, taken)
    use = Use("distill", "distill", f"{_FIELD}.dataset", spec.dataset)
    card.write(partial, tally, licence(use, workdir))
    origin = checkpoint.Origin(order, source, (rows.entry,))
    reference = checkpoint.conclude(partial, layout, origin, len(taken), tally.metrics)
    return StageResult(
        run=order.run,
        stage=order.stage,
        attempt=order.attempt,
        checkpoint=reference,
        metrics=tally.metrics,
    )


def _questions(order: StageOrder, spec: Distill, processor: Any) -> Rows:
    """The rows that the teacher is asked."""
    rows = data.load(
        spec.dataset,
        target="answer",
        conversation=order.spec.conversation,
        processor=processor,
        workdir=Path(order.workdir),
        seed=spec.seed,
        field=f"{_FIELD}.dataset",
    )
    log.info("%d questions; dropped: %s", len(rows), rows.entry.dropped or "none")
    return rows


@contextlib.contextmanager
def _teacher(
    order: StageOrder, spec: Distill, rows: Rows
) -> Iterator[tuple[Endpoint, Callable[[], None]]]:
    """Whom to ask, and what to call now and then to know that there still is somebody."""
    if url := spec.teacher.base_url:
        teacher = spec.teacher
        yield (
            Endpoint(base_url=url, model=teacher.model, api_key_env=teacher.api_key_env),
            lambda: None,
        )
        return
    log.info("vLLM loads the teacher %s", spec.teacher.identity)
    path = output(order).attempt(order.attempt) / "teacher.log"
    path.parent.mkdir(exist_ok=True)
    images = most_images(rows.data)
    with serving.served(spec, Path(order.workdir), images, path) as server:
        yield server.endpoint, server.require


def _limits(spec: Distill) -> Limits:
    patience = max(8, spec.concurrency)
    return Limits(spec.concurrency, spec.request_timeout_seconds, spec.request_retries, patience)


def _taken(samples: list[Sample], spec: Distill) -> Iterator[Sample]:
    """The samples that become rows, question by question."""
    by_question: dict[int, list[Sample]] = {}
    for sample in samples:
        by_question.setdefault(sample.question, []).append(sample)
    for index in sorted(by_question):
        yield from chosen(by_question[index], spec)


def _require_rows(tally: card.Tally) -> None:
    """Refuse to end with nothing.

    Raises:
        StageFailure: EndpointDown if nobody answered, else DatasetInvalid.
    """
    if tally.rows:
        return
    failed = ", ".join(f"{reason}: {count}" for reason, count in tally.failures.items())
    if not tally.cost.answers:
        message = f"{_FIELD}.teacher: no request was answered ({failed})"
        raise StageFailure(ErrorCode.ENDPOINT_DOWN, message)
    verdicts = tally.document(UNKNOWN)["verdicts"]
    told = ", ".join(f"{verdict}: {count}" for verdict, count in verdicts.items())
    raise StageFailure(
        ErrorCode.DATASET_INVALID,
        f"{_FIELD}: none of the {len(tally.samples)} samples can be learnt from ({told}); look at "
        "answers.jsonl, and change patterns, teacher or the data set's answer column",
    )


@dataclass
class Asking:
    """All questions, asked by twice as many tasks as requests may be open.

    So there is always one whose request is ready when an answer has come, whatever becomes of that.
    """

    sampler: Sampler
    rows: Rows
    progress: ProgressLog
    require_teacher: Callable[[], None]
    """Raises when there is nobody to ask any more."""
    found: list[Sample] = field(default_factory=list)
    done: int = 0
    fruitful: int = 0
    """Questions with a row."""

    def samples(self) -> list[Sample]:
        """Every sample that was taken.

        Raises:
            EndpointError, Terminated, OSError: as the first task met it.
        """
        tasks.run(self._all())
        return self.found

    async def _all(self) -> None:
        pending = enumerate(questions(self.rows))
        ahead = min(2 * self.sampler.spec.concurrency, len(self.rows))
        async with self.sampler.client as client:
            await client.probe()
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch())
                await tasks.each(pending, self._work, ahead)
                watch.cancel()
        self.sampler.journal.sync()
        self._tell(1.0)

    async def _work(self, pending: tuple[int, Question]) -> None:
        samples = await self.sampler.samples(*pending)
        self.found += samples
        self.done += 1
        self.fruitful += any(usable(sample, self.sampler.spec) for sample in samples)

    async def _watch(self) -> None:
        """Look for SIGTERM, bring answers to the disk, and tell how far it is."""
        synced = told = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            if TERMINATION.requested:
                self.sampler.journal.sync()
                raise Terminated("was told to end; every answer so far is kept")
            self.require_teacher()
            if time.monotonic() - synced >= SYNC:
                await asyncio.to_thread(self.sampler.journal.sync)
                synced = time.monotonic()
            if (seconds := time.monotonic() - told) >= TELL:
                self._tell(seconds)
                told = time.monotonic()

    def _tell(self, seconds: float) -> None:
        client, cost, meter = self.sampler.client, self.sampler.cost, self.progress.meter
        samples, tokens = len(self.found), cost.prompt + cost.completion
        before = meter.snapshot.values
        rates = {
            "samples_per_second": samples - before.get("samples_total", 0.0),
            "tokens_per_second": tokens
            - sum(before.get(series("tokens_total", kind), 0.0) for kind in _KINDS),
        }
        values = {
            "samples_total": samples,
            series("tokens_total", "prompt"): cost.prompt,
            series("tokens_total", "completion"): cost.completion,
            "teacher_requests_open": client.open,
            "last_step_timestamp_seconds": time.time(),
            "yield_ratio": self.fruitful / max(1, self.done),
        }
        values |= {series("teacher_requests_total", k): n for k, n in client.counts.items()}
        values |= {name: amount / seconds for name, amount in rates.items()}
        self.progress.write("distill", self.done, len(self.rows), values=values | resources())


_KINDS = ("prompt", "completion")
