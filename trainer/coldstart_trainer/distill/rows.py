"""Distilled rows as a file that fine-tuning reads, each row with where it is from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from coldstart.distill import Distill
from coldstart.spec import Conversation
from coldstart_trainer.data import Rows
from coldstart_trainer.distill.journal import Journal
from coldstart_trainer.distill.questions import Question, questions
from coldstart_trainer.distill.sampling import Sample, settings

BATCH = 128
"""Rows in one group of the file, all of which are in memory at once."""

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "images": datasets.List(datasets.Image()),
        "problem": datasets.Value("string"),
        "response": datasets.Value("string"),
        "answer": datasets.Value("string"),
        "choices": datasets.List(datasets.Value("string")),
        "pattern": datasets.Value("string"),
        "teacher": datasets.Value("string"),
        "template": datasets.Value("string"),
        "sampling": datasets.Value("string"),
        "source": datasets.Value("string"),
        "source_id": datasets.Value("string"),
        "verdict": datasets.Value("string"),
    }
)
"""What fine-tuning takes, then how the row was made: pattern, teacher, digest of the templates,
sampling settings as JSON, the data set and the row of the question, and the grader's verdict."""


@dataclass(frozen=True)
class Distilled:
    """All that rows are made from."""

    spec: Distill
    conversation: Conversation
    source: Rows
    journal: Journal

    def write(self, path: Path, samples: Iterable[Sample]) -> None:
        """Write the rows of these samples.

        Raises:
            OSError: the disk is full, or an image is gone.
        """
        schema = FEATURES.arrow_schema
        with pq.ParquetWriter(path, schema) as writer:
            for batch in _batches(self._rows(samples)):
                writer.write_table(pa.Table.from_pylist(batch, schema=schema))

    def _rows(self, samples: Iterable[Sample]) -> Iterator[dict[str, Any]]:
        wanted: dict[int, list[Sample]] = {}
        for sample in samples:
            wanted.setdefault(sample.question, []).append(sample)
        for index, asked in enumerate(questions(self.source)):
            yield from (self._row(sample, asked) for sample in wanted.get(index, ()))

    def _row(self, sample: Sample, asked: Question) -> dict[str, Any]:
        replies = [self.journal.answer(place).text for place in sample.places]
        sampling = settings(self.spec, self.conversation) | {
            "sample": sample.number,
            "seed": self.spec.seed,
        }
        return {
            "id": f"{asked.id}#{sample.number}",
            "images": [{"bytes": picture.data, "path": None} for picture in asked.pictures],
            "problem": asked.problem,
            "response": sample.pattern.response(replies),
            "answer": asked.answer,
            "choices": list(asked.choices),
            "pattern": sample.pattern.name,
            "teacher": self.spec.teacher.identity,
            "template": sample.pattern.digest,
            "sampling": json.dumps(sampling),
            "source": self.spec.dataset.name,
            "source_id": asked.id,
            "verdict": sample.verdict,
        }


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
