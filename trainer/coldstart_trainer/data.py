"""Rows of problems as the stages take them: read, checked, split; not tokenized.

Images stay encoded until a row is asked for; how long a prompt will be is reckoned from the size
in each image's header.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets.table import InMemoryTable

from coldstart.benchmarks import FACETS, Published
from coldstart.dataset import Dataset
from coldstart.schedule import held_out_rows
from coldstart.spec import Conversation
from coldstart.stage import DatasetEntry
from coldstart.status import ErrorCode
from coldstart_trainer import benchmarks, sources
from coldstart_trainer import conversation as chat
from coldstart_trainer.admission import (
    BATCH,
    Table,
    Tally,
    Terms,
    admitted,
    is_absent,
    prompt_lengths,
)
from coldstart_trainer.images import STORAGE, UNREADABLE, facts
from coldstart_trainer.model import image_tokens, sees_images
from coldstart_trainer.sources import DataError

__all__ = ["DataError", "Rows", "conversations", "load", "prompt_tokens", "split"]

_FEATURES = {
    "id": datasets.Value("string"),
    "problem": datasets.Value("string"),
    "images": datasets.List(datasets.Image()),
    "answer": datasets.Value("string"),
    "response": datasets.Value("string"),
    "choices": datasets.List(datasets.Value("string")),
    "answer_type": datasets.Value("string"),
    "precision": datasets.Value("int64"),
    "unit": datasets.Value("string"),
    "cluster": datasets.Value("string"),
    **{name: datasets.Value("string") for name in FACETS},
}

_DECLARED = ("answer_type", "precision", "unit", "cluster", *FACETS)
"""What only published benchmarks tell of their rows."""

_IMAGE = datasets.Image()

_REMEDIES = {
    "prompt_too_long": "raise spec.conversation.maxPromptTokens, or lower maxPixels for images",
    "response_too_long": "raise spec.conversation.maxCompletionTokens",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rows:
    """Rows that a stage uses.

    `data` has the columns `id`, `problem`, `images` (a list, decoded when the row is asked for),
    and those of `answer`, `response` and `choices` that the data set has; those of a published
    benchmark have what grading and results need besides.
    """

    data: datasets.Dataset
    entry: DatasetEntry

    def __len__(self) -> int:
        """How many there are."""
        return len(self.data)


def load(
    dataset: Dataset,
    *,
    target: Literal["response", "answer"],
    conversation: Conversation,
    processor: Any,
    workdir: Path,
    seed: int,
    field: str,
    known: Published | None = None,
) -> Rows:
    """The rows of a data set that fit the conversation.

    Args:
        dataset: what the spec says.
        target: the column that the stage needs: `response` (SFT), `answer` (GRPO, evaluation).
        conversation: prompt, pixels and lengths.
        processor: as `model.load_processor` gives it.
        workdir: the directory that local names are relative to.
        seed: draws the rows where the data set has a limit.
        field: the path of the data set in the spec, for errors.
        known: the published benchmark that the data set is, in its released layout.

    Raises:
        DataError: the data set is missing, empty, or holds a row that is wrong; the message names
            field, file, row and column.
    """
    if known is None:
        source = sources.read(dataset, ("problem", target), workdir, field)
    else:
        source = benchmarks.read(known, dataset, workdir, field)
    rows = source.table.num_rows
    if not rows:
        raise DataError(ErrorCode.DATASET_INVALID, f"{field}.name: {dataset.name} is empty")
    table = _typed(source.table, target, field)
    if known is not None:
        table |= {
            name: source.table[name] for name in _DECLARED if name in source.table.schema.names
        }
    if sees_images(processor) and not pc.max(pc.list_value_length(table["images"])).as_py():
        log.warning(
            "%s: no row of %s has an image, so the vision tower is not used; if there should be "
            "some, name their column in %s.columns.images (%r)",
            field,
            dataset.name,
            field,
            dataset.columns.images,
        )
    terms = Terms(processor, conversation, target, dataset.columns, field)
    order, wanted = _draw(rows, dataset.limit, seed, table.get("cluster"))
    tally = admitted(source, table, order, wanted, terms)
    if not tally.kept:
        raise DataError(ErrorCode.DATASET_INVALID, f"{field}: {_none_left(dataset.name, tally)}")
    entry = DatasetEntry(
        name=dataset.name,
        fingerprint=f"sha256:{tally.digest.hexdigest()}",
        rows=len(tally.kept),
        dropped=dict(sorted(tally.dropped.items())),
    )
    return Rows(_assembled(table, tally.kept, tally.digest.hexdigest()), entry)


def split(rows: Rows, held_out: float, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on, and rows held out: the same ones for the same rows and seed."""
    n = len(rows)
    held = held_out_rows(n, held_out)
    order = np.random.default_rng([seed, 1]).permutation(n)
    return _chosen(rows, order[held:]), _chosen(rows, order[:held])


def conversations(data: datasets.Dataset, conversation: Conversation) -> datasets.Dataset:
    """The rows as TRL takes them: with `prompt`, and `completion` where there is a response.

    They are made when a row is asked for, so images are neither decoded nor copied before. We
    decode them ourselves: `datasets` 5 decodes the first image of every list twice, to see whether
    it is one (`decode_nested_example`).
    """
    encoded = data.cast_column("images", datasets.List(datasets.Image(decode=False)))
    return encoded.with_transform(partial(_with_messages, conversation=conversation))


def prompt_tokens(data: datasets.Dataset, processor: Any, conversation: Conversation) -> list[int]:
    """How many tokens the prompt of each row has, image tokens included."""
    lengths = []
    encoded = data.with_format("arrow")
    for start in range(0, len(data), BATCH):
        table = encoded[start : start + BATCH]
        images = table["images"].to_pylist()
        pairs = zip(table["problem"].to_pylist(), images, strict=True)
        prompts = [chat.prompt(problem, len(values), conversation) for problem, values in pairs]
        pixels = [sum(_image_tokens(processor, value) for value in values) for values in images]
        lengths += prompt_lengths(processor, prompts, pixels)
    return lengths


def _image_tokens(processor: Any, value: dict[str, Any]) -> int:
    known = facts(value)
    return image_tokens(processor, known.width, known.height)


def _with_messages(batch: dict[str, list[Any]], conversation: Conversation) -> dict[str, list[Any]]:
    pairs = zip(batch["problem"], batch["images"], strict=True)
    prompts = [chat.prompt(problem, len(images), conversation) for problem, images in pairs]
    images = [
        [_decoded(value, row) for value in values]
        for row, values in zip(batch["id"], batch["images"], strict=True)
    ]
    batch = {**batch, "prompt": prompts, "images": images}
    if "response" in batch:
        batch["completion"] = [chat.response(text) for text in batch["response"]]
    return batch


def _decoded(value: dict[str, Any], row: str) -> Any:
    """An image's pixels, of which until then only the header was looked at."""
    try:
        return _IMAGE.decode_example(value)
    except UNREADABLE as error:
        message = f"an image of the row {row!r:.80} cannot be decoded: {error}"
        raise DataError(ErrorCode.DATASET_INVALID, message) from error


def _typed(source: pa.Table, target: str, field: str) -> Table:
    """Every column with its final type."""
    names = source.column_names
    table: Table = {"id": pa.chunked_array([_ids(source)])}
    for name in chat.TEXTS:
        if name in names:
            table[name] = _texts(source.column(name), f"{field}.columns.{name}")
    if target == "response" and "answer" in names:
        table["answer"] = _gold_or_null(table["answer"])
    if "images" in names:
        table["images"] = source.column("images")
    else:
        table["images"] = pa.chunked_array([pa.array([[]] * source.num_rows, pa.list_(STORAGE))])
    if "choices" in names and pa.types.is_list(source.schema.field("choices").type):
        table["choices"] = _choices(source.column("choices"))
    return table


def _ids(source: pa.Table) -> pa.Array:
    """The `id` column where it tells all rows apart, else row numbers."""
    if "id" in source.column_names:
        values = [str(value) for value in source.column("id").to_pylist() if value is not None]
        if len(set(values)) == source.num_rows and all(values):
            return pa.array(values, pa.string())
    return pa.array([str(row) for row in range(source.num_rows)], pa.string())


def _texts(column: pa.ChunkedArray, where: str) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return column.cast(pa.string())
    if pa.types.is_nested(kind) or pa.types.is_binary(kind):
        message = f"{where}: the column holds {kind}, not text"
        raise DataError(ErrorCode.DATASET_INVALID, message)
    values = [None if value is None else str(value) for value in column.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.string())])


def _gold_or_null(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Answers beside responses are a convenience: those that are none count as absent."""
    values = [None if is_absent(value) else value for value in column.to_pylist()]
    return pa.chunked_array([pa.array(values, pa.string())])


def _choices(column: pa.ChunkedArray) -> pa.ChunkedArray:
    rows = [[str(option) for option in options or ()] for options in column.to_pylist()]
    return pa.chunked_array([pa.array(rows, pa.list_(pa.string()))])


def _draw(
    rows: int, limit: int | None, seed: int, clusters: pa.ChunkedArray | None
) -> tuple[Sequence[int], int]:
    """In which order rows are looked at, and how many are wanted; clusters are drawn as wholes."""
    if limit is None or limit >= rows:
        return range(rows), rows
    generator = np.random.default_rng([seed, 0])
    if clusters is None or clusters.null_count:
        return generator.permutation(rows).tolist(), limit
    members: dict[str, list[int]] = {}
    for row, name in enumerate(clusters.to_pylist()):
        members.setdefault(name, []).append(row)
    groups = list(members.values())
    return [row for at in generator.permutation(len(groups)) for row in groups[at]], limit


def _none_left(name: str, tally: Tally) -> str:
    reasons = ", ".join(f"{reason}: {count}" for reason, count in tally.dropped.most_common())
    advice = "".join(
        f"; {remedy} (the shortest has {tally.shortest[reason]} tokens)"
        for reason, remedy in _REMEDIES.items()
        if reason in tally.shortest
    )
    return f"none of the {tally.dropped.total()} rows of {name} fits ({reasons}){advice}"


def _assembled(table: Table, kept: list[int], fingerprint: str) -> datasets.Dataset:
    names = [name for name in _FEATURES if name in table]
    features = datasets.Features({name: _FEATURES[name] for name in names})
    data = datasets.Dataset(
        InMemoryTable(pa.table({name: table[name] for name in names})),
        info=datasets.DatasetInfo(features=features),
        fingerprint=fingerprint[:16],
    )
    return data if len(kept) == len(data) else data.select(kept)


def _chosen(rows: Rows, indices: np.ndarray) -> Rows:
    chosen = sorted(int(index) for index in indices)
    entry = rows.entry.model_copy(update={"rows": len(chosen)})
    return replace(rows, data=rows.data.select(chosen), entry=entry)
