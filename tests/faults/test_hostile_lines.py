"""Files of one line without an end, as a lying disk or a hostile pod leaves: never held whole."""

import json
import tracemalloc

import pytest
from sample_run import finished_run

from coldstart import files, follow
from coldstart.dataset import Dataset
from coldstart.documents import read_document
from coldstart.files import MAX_LINE, json_lines
from coldstart.layout import RunLayout
from coldstart.metrics import Progress
from coldstart.report import run_results, write_report
from coldstart.results import BenchmarkResult
from coldstart.summary import read_samples
from coldstart_trainer import sources
from coldstart_trainer.distill.journal import Journal
from coldstart_trainer.sources import DataError

GIGABYTES = 2 << 30


def endless(path, before=b""):
    """A file whose last line is of gigabytes; it takes no room on the disk."""
    path.write_bytes(before)
    with path.open("ab") as stream:
        stream.truncate(GIGABYTES)
    return path


def rows(path):
    list(sources.read(Dataset(name=str(path)), ("problem",), path.parent, "spec.sft.dataset").files)


READERS = {
    "responses": ("samples.jsonl", lambda path: read_samples(path.parent), "samples.jsonl: line 2"),
    "any lines": ("a.jsonl", lambda path: list(json_lines(path)), "a.jsonl: line 2 is longer than"),
    "a data set": ("rows.jsonl", rows, r"spec.sft.dataset.name: .*rows.jsonl .*: line 2 is longer"),
    "a document": (
        "results.json",
        lambda path: read_document(path, BenchmarkResult),
        "results.json: is longer than",
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_what_has_no_end_is_refused_by_its_name(tmp_path, name):
    file, read, said = READERS[name]
    path = endless(tmp_path / file, b"[]\n" if name != "a data set" else b'{"problem": "What?"}\n')
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, DataError), match=said):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE
    finally:
        tracemalloc.stop()


@pytest.fixture
def short(monkeypatch):
    """Lines are too long early."""
    for module in (files, follow):
        monkeypatch.setattr(module, "MAX_LINE", 4096)
    monkeypatch.setattr("coldstart_trainer.distill.journal.MAX_LINE", 4096)


def test_a_line_as_long_as_may_be_is_read(tmp_path, short):
    line = json.dumps({"a": "x" * 4086}).encode()
    assert len(line) == 4095
    (tmp_path / "a.jsonl").write_bytes(line + b"\n" + line)
    assert [len(each["a"]) for each in json_lines(tmp_path / "a.jsonl")] == [4086, 4086]


def test_a_report_shows_what_was_measured_before(tmp_path, short):
    root = finished_run(tmp_path, problems=3)
    metrics = RunLayout(root).stage("sft").metrics
    run_results(root)
    with metrics.open("ab") as stream:
        stream.write(b" " * 5000)
    assert "html" in write_report(root).read_text()


def test_whoever_follows_a_stage_sees_what_comes_after(tmp_path, short):
    line = Progress(attempt=1, phase="train", done=1, total=2, time=0.0, values={})
    path = tmp_path / "metrics.jsonl"
    tail = follow._Tail(path)
    path.write_bytes(b"x" * 10_000)
    for _ in range(4):
        assert tail.lines() == []
    with path.open("ab") as stream:
        stream.write(b"\n" + line.model_dump_json(by_alias=True).encode() + b"\n")
    assert [each.done for each in (*tail.lines(), *tail.lines())] == [1]


def test_a_teachers_answers_before_and_after_are_kept(tmp_path, short):
    answer = {"text": "7", "finish": "stop", "prompt_tokens": 3, "completion_tokens": 4}
    lines = [json.dumps(answer | {"key": key}).encode() for key in "ab"]
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b"\n".join([lines[0], b"x" * 10_000, lines[1], b""]))
    with Journal(path) as journal:
        assert [journal.answer(journal.place(key)).text for key in "ab"] == ["7", "7"]
