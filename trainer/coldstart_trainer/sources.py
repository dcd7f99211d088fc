"""Where rows come from: hub data sets and local files, read as Arrow columns; rows are not judged.

Parquet and hub data are memory-mapped by `datasets`. JSON is read here, so that a mistake in it is
reported with its line, and an answer may be a number in one row and a text in the next.
"""

from __future__ import annotations

import bisect
import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from coldstart.dataset import DATA_SUFFIXES, Dataset
from coldstart.files import lines
from coldstart.status import ErrorCode
from coldstart_trainer.images import Home, ImageError, image_lists

_OPTIONAL = ("id", "choices")

# `datasets` reads cards and metadata that somebody wrote: besides what it, the hub's client and the
# network raise, a foreign one ends in whatever way it breaks the library. So `Exception` it is,
# where it is asked.


class DataError(ValueError):
    """A data set that cannot be used, with the error code of the stage's result."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class File:
    """One file of a source, or the hub data set as a whole."""

    first: int
    """The number of its first row in the source."""
    label: str
    home: Home
    """Where its images are."""


@dataclass(frozen=True)
class Source:
    """The columns of a data set by our names, and where each row is from."""

    table: pa.Table
    files: tuple[File, ...]

    def place(self, row: int) -> str:
        """A row as a person finds it: its file, and its number there, from 0."""
        file = self._file(row)
        return f"{file.label}, row {row - file.first}"

    def home(self, row: int) -> Home:
        """Where the row's images are, if it names their paths."""
        return self._file(row).home

    def _file(self, row: int) -> File:
        return self.files[bisect.bisect_right(self.files, row, key=lambda file: file.first) - 1]


def read(dataset: Dataset, required: Iterable[str], workdir: Path, field: str) -> Source:
    """The columns of a data set that we have a use for.

    Args:
        dataset: what the spec says.
        required: of `problem`, `answer`, `response`: which columns there must be.
        workdir: the directory that local names are relative to.
        field: the path of the data set in the spec, for errors.

    Raises:
        DataError: it is not there, not readable, or lacks a column.
    """
    wanted = {*dataset.columns.document().values(), *_OPTIONAL}
    source = _tables(dataset, wanted, workdir, field)
    tables = [_named(table, dataset, set(required), file, field) for table, file in source]
    files = tuple(file for _, file in source)
    return with_image_lists(Source(_joined(tables, dataset, field), files), dataset, field)


def read_raw(dataset: Dataset, wanted: Iterable[str], workdir: Path, field: str) -> Source:
    """The columns of a data set by its own names, those that are wanted and there.

    Raises:
        DataError: it is not there, or not readable.
    """
    names = set(wanted)
    source = _tables(dataset, names, workdir, field)
    tables = [table.select([n for n in table.column_names if n in names]) for table, _ in source]
    return Source(_joined(tables, dataset, field), tuple(file for _, file in source))


def is_local(dataset: Dataset, workdir: Path) -> bool:
    """Whether a data set is a file or a directory, not one of the hub."""
    return dataset.looks_local or dataset.place(workdir).exists()


def _tables(
    dataset: Dataset, wanted: set[str], workdir: Path, field: str
) -> list[tuple[pa.Table, File]]:
    if not is_local(dataset, workdir):
        caches = (datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE)
        home = _home(dataset, workdir, (workdir, *map(Path, caches)), workdir, field)
        return [(_hub(dataset, field).data.table, File(0, dataset.name, home))]
    local = dataset.place(workdir)
    if not local.exists():
        raise DataError(ErrorCode.DATASET_NOT_FOUND, f"{field}.name: there is no file {local}")
    paths = _directory_files(dataset, local, field) if local.is_dir() else [local]
    return list(_local(dataset, paths, wanted, workdir, field))


def _home(
    dataset: Dataset, folder: Path, roots: tuple[Path, ...], workdir: Path, field: str
) -> Home:
    """Where images are, unless the spec says where else."""
    given = dataset.pictures(workdir)
    if given is None:
        return Home(folder, roots)
    if not given.is_dir():
        message = f"{field}.imageDir: there is no directory {given}"
        raise DataError(ErrorCode.DATASET_NOT_FOUND, message)
    return Home(given, (given, *roots))


def _joined(tables: list[pa.Table], dataset: Dataset, field: str) -> pa.Table:
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowInvalid as error:
        message = f"{field}.name: the files of {dataset.name} do not fit together: {error}"
        raise _invalid(message) from error


def _hub(dataset: Dataset, field: str) -> datasets.Dataset:
    try:
        with _without_progress_bars():
            loaded = datasets.load_dataset(
                dataset.name, dataset.config, split=dataset.split, revision=dataset.revision
            )
    except MemoryError:
        raise
    except Exception as error:
        raise DataError(
            ErrorCode.DATASET_NOT_FOUND,
            f"{field}.name: {dataset.name!r} (split {dataset.split!r}) is neither a file beside "
            f"the run.yaml nor to be had from the hub: {_first_line(error)}",
        ) from error
    assert isinstance(loaded, datasets.Dataset)
    return loaded


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    """A stage's output goes to a file, which a bar would fill with its every state."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _directory_files(dataset: Dataset, directory: Path, field: str) -> list[Path]:
    """The files of a split, found as the hub finds them: by name, or as a README's header says."""
    try:
        _require_own_files(directory)
        builder = datasets.load_dataset_builder(str(directory), dataset.config)
        splits = builder.config.data_files or {}
    except MemoryError:
        raise
    except Exception as error:
        raise _invalid(f"{field}.name: {directory}: {_first_line(error)}") from error
    if dataset.split not in splits:
        known = ", ".join(map(str, splits)) or "none"
        raise _invalid(f"{field}.split: {directory} has no split {dataset.split!r} (has: {known})")
    return [Path(name) for name in splits[dataset.split]]


def _require_own_files(directory: Path) -> None:
    """A card may name any file of this machine, or any address, as its data: they would be asked.

    Raises:
        ValueError: it does.
    """
    card, more = (
        directory / name
        for name in (datasets.config.REPOCARD_FILENAME, datasets.config.REPOYAML_FILENAME)
    )
    documents: list[Any] = []
    if card.is_file():
        documents.append(huggingface_hub.DatasetCard.load(card).data.to_dict())
    if more.is_file():
        documents.append(yaml.safe_load(more.read_text(encoding="utf-8")))
    for document in documents:
        configs = document.get("configs") if isinstance(document, dict) else None
        for name in _texts(configs, set()):
            if ":" in name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"its card names {name!r:.100} as its data, which is elsewhere")


def _texts(value: Any, seen: set[int]) -> Iterator[str]:
    """The texts in lists and mappings; what YAML has in several places is looked at once."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item, seen)


def _local(
    dataset: Dataset, paths: list[Path], columns: set[str], workdir: Path, field: str
) -> Iterator[tuple[pa.Table, File]]:
    first = 0
    for path in paths:
        if path.suffix not in DATA_SUFFIXES:
            raise _invalid(f"{field}.name: {path} is none of {', '.join(DATA_SUFFIXES)}")
        try:
            table = _parquet(path, columns) if path.suffix == ".parquet" else _json(path, columns)
        except MemoryError:
            raise
        except Exception as error:
            raise _invalid(f"{field}.name: {path} cannot be read: {_first_line(error)}") from error
        label = str(path.relative_to(workdir)) if path.is_relative_to(workdir) else str(path)
        home = _home(dataset, path.parent, (path.parent, workdir), workdir, field)
        yield table, File(first, label, home)
        first += table.num_rows


def _parquet(path: Path, columns: set[str]) -> pa.Table:
    metadata = pq.read_metadata(path)
    known = metadata.schema.to_arrow_schema().names
    if not metadata.num_rows:
        return metadata.schema.to_arrow_schema().empty_table()
    with _without_progress_bars():
        loaded = datasets.load_dataset(
            "parquet",
            data_files=str(path),
            split="train",
            columns=[name for name in known if name in columns] or None,
        )
    assert isinstance(loaded, datasets.Dataset)
    return loaded.data.table.replace_schema_metadata({"columns": json.dumps(known)})


def _json(path: Path, columns: set[str]) -> pa.Table:
    rows = list(_json_rows(path))
    known = list(dict.fromkeys(name for row in rows for name in row))
    arrays = {
        name: _json_column([row.get(name) for row in rows]) for name in known if name in columns
    }
    # A table without columns would lose how many rows there are.
    table = pa.table(arrays or {"": pa.nulls(len(rows))})
    return table.replace_schema_metadata({"columns": json.dumps(known)})


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as stream:
        if stream.read(1 << 20).lstrip().startswith(b"["):
            items = json.loads(path.read_text(encoding="utf-8"))
            yield from (_json_object(item, f"item {i}") for i, item in enumerate(items))
            return
        stream.seek(0)
        for number, line in enumerate(lines(stream), start=1):
            if text := _text(line, number).strip():
                try:
                    item = json.loads(text)
                except json.JSONDecodeError as error:
                    raise ValueError(f"line {number} is not JSON: {error}") from error
                yield _json_object(item, f"line {number}")


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"line {number} is not UTF-8: {error}") from error


def _json_object(item: object, where: str) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise ValueError(f"{where} is not an object")  # noqa: TRY004 - a mistake in a file
    return item


def _json_column(values: list[Any]) -> pa.Array:
    """A column of JSON values: texts where texts and numbers occur, lists where lists do."""
    if any(isinstance(value, str) or _is_long(value) for value in values):
        values = [
            str(value) if isinstance(value, (int, float, bool)) else value for value in values
        ]
    if any(isinstance(value, list) for value in values):
        values = [[value] if isinstance(value, (str, dict)) else value for value in values]
    return pa.array(values)


def _is_long(value: Any) -> bool:
    """Whether a whole number is none of 64 bits, as columns hold them."""
    return isinstance(value, int) and not -(1 << 63) <= value < 1 << 63


def _named(
    table: pa.Table, dataset: Dataset, required: set[str], file: File, field: str
) -> pa.Table:
    """The columns under our names; those that must be there are."""
    names = dataset.columns.document()
    known = json.loads((table.schema.metadata or {}).get(b"columns", b"[]")) or table.column_names
    for ours, theirs in names.items():
        # A resolved spec names every column, so only another name than the default's was asked for.
        asked = theirs != ours
        if theirs not in table.column_names and (ours in required or asked):
            raise _invalid(
                f"{field}.columns.{ours}: {file.label} has no column {theirs!r}; set "
                f"columns.{ours} to one of: {', '.join(known) or 'none'}"
            )
    if names["images"] not in table.column_names:
        _refuse_hidden_images(known, file, field)
    wanted = {**{name: name for name in _OPTIONAL}, **names}
    found = {ours: theirs for ours, theirs in wanted.items() if theirs in table.column_names}
    return pa.table({ours: table.column(theirs) for ours, theirs in found.items()})


def _refuse_hidden_images(known: list[str], file: File, field: str) -> None:
    """Pictures under another name would be left out, and the model trained blind."""
    suspects = [name for name in known if name.lower() in ("image", "img", "picture", "pictures")]
    if suspects:
        raise _invalid(
            f"{field}.columns.images: {file.label} has no column 'images', but one "
            f"called {suspects[0]!r}: set columns.images to it"
        )


def with_image_lists(source: Source, dataset: Dataset, field: str) -> Source:
    """The same rows with `images`, if there are any, in their one form.

    Raises:
        DataError: the column holds no images.
    """
    if "images" not in source.table.column_names:
        return source
    index = source.table.column_names.index("images")
    try:
        images = image_lists(source.table.column("images"), source.home)
    except ImageError as error:
        raise _invalid(
            f"{field}.columns.images: column {dataset.columns.images!r} of {dataset.name} {error}"
        ) from error
    return Source(source.table.set_column(index, "images", images), source.files)


def _invalid(message: str) -> DataError:
    return DataError(ErrorCode.DATASET_INVALID, message)


def _first_line(error: BaseException) -> str:
    cause: BaseException = error
    while isinstance(cause, datasets.exceptions.DatasetGenerationError) and cause.__cause__:
        cause = cause.__cause__
    return (str(cause).splitlines() or [type(cause).__name__])[0][:500]
