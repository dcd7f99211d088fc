"""Published benchmarks as rows of ours, from the hub or from files in the released layout.

What the rows mean is in `coldstart.benchmarks`; here their columns are found, and what is wrong
with a set as a whole is named and counted before anything is asked.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from coldstart.benchmarks import FACETS, Problem, Published, RowError, problem
from coldstart.dataset import Dataset
from coldstart.status import ErrorCode
from coldstart_trainer.sources import DataError, Source, is_local, read_raw, with_image_lists

log = logging.getLogger(__name__)

# Columns that a schema may lack: they only break results down, or make grading finer.
_OPTIONAL = (
    *("metadata", "unit", "precision", "subject", "level", "question_type", "question_for_eval"),
    "knowledge concept",
)
_SHOWN = 5


def read(known: Published, dataset: Dataset, workdir: Path, field: str) -> Source:
    """The rows of a published benchmark, under our names.

    Args:
        known: which benchmark.
        dataset: where it is, as `known.dataset` gives it.
        workdir: the directory that local names are relative to.
        field: the path of the data set in the spec, for errors.

    Raises:
        DataError: it is not there, not in its released layout, has more rows than it should, hides
            its answers, or lacks choices or images; the message counts the rows.
    """
    names = {*known.required, *known.images, *_OPTIONAL}
    source = read_raw(dataset, names, workdir, field)
    images = _image_column(known, source, field)
    _check_count(known, dataset, source, workdir, field)
    texts = source.table.drop_columns([n for n in known.images if n in source.table.column_names])
    problems = list(_problems(known, Source(texts, source.files), field))
    _check_answers(known, problems, source, field)
    table = _table(problems).append_column("images", source.table.column(images))
    columns = dataset.columns.model_copy(update={"images": images})
    listed = with_image_lists(
        Source(table, source.files), dataset.model_copy(update={"columns": columns}), field
    )
    _check_images(known, listed, field)
    return listed


def _image_column(known: Published, source: Source, field: str) -> str:
    """The column that holds the images; the other columns are there, too."""
    there = source.table.column_names
    lacking = [name for name in known.required if name not in there]
    images = next((name for name in known.images if name in there), None)
    if images is None:
        lacking.append(" or ".join(known.images))
    if lacking or images is None:
        raise _invalid(
            f"{field}: {source.files[0].label} is not {known.title} as it was released: it has no "
            f"column {', '.join(lacking)}. A set of your own takes another name than {known.name}"
        )
    return images


def _check_count(
    known: Published, dataset: Dataset, source: Source, workdir: Path, field: str
) -> None:
    rows = source.table.num_rows
    local = is_local(dataset, workdir)
    if not rows or rows > known.rows or (rows < known.rows and not local):
        raise _invalid(
            f"{field}: {dataset.name} (split {dataset.split!r}) has {rows:,} rows, but "
            f"{known.title} has {known.rows:,}: take another split or revision"
        )
    if rows < known.rows:
        log.warning(
            "%s: %s has %d of the %d rows of %s: the results are partial",
            *(field, dataset.name, rows, known.rows, known.title),
        )


def _problems(known: Published, source: Source, field: str) -> Iterator[Problem]:
    """Every row, or all that is wrong with them."""
    wrong: list[str] = []
    for row, document in enumerate(source.table.to_pylist()):
        try:
            yield problem(known.schema, document)
        except RowError as error:
            wrong.append(f"{source.place(row)}: {error}")
    if wrong:
        raise _invalid(
            f"{field}: {len(wrong)} of {source.table.num_rows} rows are wrong: {_few(wrong)}"
        )


def _check_answers(
    known: Published, problems: Sequence[Problem], source: Source, field: str
) -> None:
    blank = [row for row, item in enumerate(problems) if not item.answer]
    if len(blank) == len(problems):
        raise _invalid(
            f"{field}: {source.files[0].label} has no answers at all: its split hides them; "
            f"take {known.split}"
        )
    if blank:
        raise _invalid(
            f"{field}: {len(blank)} of {len(problems)} rows have no answer: "
            f"{_few([source.place(row) for row in blank])}"
        )
    ids = [item.id for item in problems if item.id]
    if len(set(ids)) < len(ids):
        raise _invalid(
            f"{field}: {len(ids) - len(set(ids))} of {len(ids)} rows repeat another row's "
            f"{known.required[0]}"
        )


def _check_images(known: Published, source: Source, field: str) -> None:
    chunks = source.table.column("images").chunks
    seen = [sighted for chunk in chunks for sighted in _sighted(chunk)]
    blind = [row for row, sighted in enumerate(seen) if not sighted]
    if blind:
        raise _invalid(
            f"{field}: {len(blind)} of {len(seen)} rows of {known.title} have no image, or one "
            f"that is no file: {_few([source.place(row) for row in blind])}"
        )


def _sighted(chunk: pa.Array) -> list[bool]:
    """Of each row, whether it has images, all of them there; the embedded ones are not copied."""
    values = chunk.flatten()
    pairs = zip(
        values.field("bytes").is_valid().to_pylist(), values.field("path").to_pylist(), strict=True
    )
    there = [inside or (path is not None and _is_file(path)) for inside, path in pairs]
    ends = chunk.offsets.to_pylist()
    first = ends[0]
    return [
        end > start and all(there[start - first : end - first])
        for start, end in itertools.pairwise(ends)
    ]


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # a name that is too long
        return False


def _table(problems: Sequence[Problem]) -> pa.Table:
    text, texts = pa.string(), pa.list_(pa.string())
    columns: dict[str, pa.Array] = {
        "problem": pa.array([item.problem for item in problems], text),
        "answer": pa.array([item.answer for item in problems], text),
        "choices": pa.array([list(item.choices) for item in problems], texts),
        "answer_type": pa.array([item.answer_type for item in problems], text),
        "precision": pa.array([item.precision for item in problems], pa.int64()),
        "unit": pa.array([item.unit for item in problems], text),
        "cluster": pa.array([item.cluster for item in problems], text),
    }
    if all(item.id for item in problems):
        columns["id"] = pa.array([item.id for item in problems], text)
    for name in FACETS:
        values = [item.facets.get(name) for item in problems]
        if any(values):
            columns[name] = pa.array(values, text)
    return pa.table(columns)


def _few(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return "; ".join(items[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _invalid(message: str) -> DataError:
    return DataError(ErrorCode.DATASET_INVALID, message)
