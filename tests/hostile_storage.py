"""What reads the storage of a run, where its pods write: parsers as those of `hostile_parsers`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

from builders import make_run
from hostile_parsers import Parser, Seeds, as_json
from sample_checkpoint import make_checkpoint
from sample_run import finished_run

from coldstart import record
from coldstart.checkpoint import CheckpointError, check_lineage, resumable, verify
from coldstart.documents import read_document
from coldstart.grading import case
from coldstart.judging.judge import Judge, Prompt, _verdict
from coldstart.layout import RunLayout
from coldstart.order import build_order
from coldstart.places.directory import Directory
from coldstart.places.place import PlaceError
from coldstart.report import run_results, write_report
from coldstart.report.browser import Room
from coldstart.report.pictures import gallery
from coldstart.results import BenchmarkResult
from coldstart.spec import Stage
from coldstart.summary import matcher_versions, read_origin, read_samples

# What is written into a run's storage


@cache
def _run_files() -> dict[str, bytes]:
    """The files of a finished run, by their path."""
    with tempfile.TemporaryDirectory() as folder:
        root = finished_run(Path(folder), problems=3)
        files = {
            path.relative_to(root).as_posix(): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file()
        }
    files["sft/metrics.jsonl"] = b"\n".join(files["sft/metrics.jsonl"].split(b"\n")[:12])
    files["grpo/metrics.jsonl"] = b"\n".join(files["grpo/metrics.jsonl"].split(b"\n")[:12])
    return files


def _seeds_of(*endings: str) -> Seeds:
    return lambda: [data for path, data in _run_files().items() if path.endswith(endings)][:4]


def _put(home: Path, **changed: bytes) -> Path:
    """A finished run with some of its files replaced; a key is a file's path."""
    root = home / "digits"
    for path, data in (_run_files() | changed).items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.is_file() or file.read_bytes() != data:
            file.write_bytes(data)
    return root


_ROOM = Room(responses=20, image_bytes=100_000)


class _Elements(HTMLParser):
    """What of a page runs, loads or sends something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.active: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = [name for name, _ in attrs if name.startswith("on")]
        linked = [v or "" for n, v in attrs if n in ("href", "src", "action", "data", "srcset")]
        foreign = [v for v in linked if not v.startswith(("#", "data:image/", "http://www.w3.org"))]
        if tag in ("iframe", "object", "embed", "base", "form", "link") or named or foreign:
            self.active.append(f"<{tag} {named or foreign}>")
        if tag == "script" and dict(attrs).get("type") is None:
            self.active.append("<script>")


def _reported(path: str) -> Callable[[bytes, Path], object]:
    """A report of a run of which one file is foreign."""

    def feed(data: bytes, home: Path) -> object:
        root = _put(home, **{path: data})
        run_results(root)
        page = write_report(root, room=_ROOM).read_text(encoding="utf-8")
        foreign = set(_Elements(page).active) - _own_elements()
        assert not foreign, foreign
        return page

    return feed


@cache
def _own_elements() -> set[str]:
    """Those of the page that do something, as they are without anything foreign."""
    with tempfile.TemporaryDirectory() as folder:
        return set(_Elements(write_report(_put(Path(folder)), room=_ROOM).read_text()).active)


def _status(data: bytes, home: Path) -> object:
    where = RunLayout(home / "digits")
    where.root.mkdir(exist_ok=True)
    where.status.write_bytes(data)
    return Directory(home).view("digits"), record.read(where)


def _metrics(data: bytes, home: Path) -> object:
    root = home / "digits"
    status = json.loads(_run_files()["status.json"])
    for entry in status["status"]["stages"]:
        entry["state"] = "Running" if entry["name"] == "grpo" else entry["state"]
    _put(home, **{"grpo/metrics.jsonl": data, "status.json": json.dumps(status).encode()})
    return Directory(home).view(str(root))


def _benchmark(data: bytes, home: Path) -> object:
    (home / "samples.jsonl").write_bytes(data)
    (home / "results.json").write_bytes(data)
    (home / "origin.json").write_bytes(data)
    read_origin(home), matcher_versions(home)
    samples = read_samples(home)
    return [case(s.response, s.gold, precision=s.precision, unit=s.unit) for s in samples]


def _results(data: bytes, home: Path) -> object:
    (home / "results.json").write_bytes(data)
    return read_document(home / "results.json", BenchmarkResult)


@cache
def _manifests() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder) / "c")
        return [(Path(folder) / "c" / "coldstart.json").read_bytes()]


def _manifest(data: bytes, home: Path) -> object:
    directory = home / "checkpoint-1"
    (directory / "nested").mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_bytes(b"weights")
    (directory / "nested" / "state.bin").write_bytes(b"state")
    (directory / "coldstart.json").write_bytes(data)
    run = make_run()
    list(resumable(home, build_order(run, Stage.SFT, 1, {}, storage="/runs", workdir="/w")))
    check_lineage(verify(directory), run.spec, None)
    return directory


def _pictures() -> list[bytes]:
    return [data for path, data in _run_files().items() if path.endswith(".png")][:2]


def _picture(data: bytes, home: Path) -> object:
    name = "0" * 64
    (home / f"{name}.png").write_bytes(data.ljust(4001, b"\0"))
    return gallery(home, [name, "../" + name, "/etc/passwd"], 100_000)


def _judgements() -> list[bytes]:
    return [b"\n".join(as_json(*({"key": f"k{n}", "text": "Verdict: yes"} for n in range(3))))]


class _NoClient:
    """Who would be asked."""

    endpoint = limits = None


def _judged(data: bytes, home: Path) -> object:
    (home / "judge.jsonl").write_bytes(data)
    judge = Judge(_NoClient(), Prompt("{gold}{response}"), home)  # type: ignore[arg-type]
    return [_verdict(reply.text) for reply in judge._replies.values()]


_REPORT = (ValueError,)

PARSERS: tuple[Parser, ...] = (
    Parser("judge's record", "lines", _judgements, _judged, (ValueError,), weight=150),
    Parser(
        "report: responses",
        "lines",
        _seeds_of("samples.jsonl"),
        _reported("evaluation/sft/held-out/samples.jsonl"),
        _REPORT,
        1,
    ),
    Parser(
        "report: progress",
        "lines",
        _seeds_of("grpo/metrics.jsonl"),
        _reported("grpo/metrics.jsonl"),
        _REPORT,
        1,
    ),
    Parser(
        "report: results",
        "json",
        _seeds_of("results.json"),
        _reported("evaluation/sft/held-out/results.json"),
        _REPORT,
        1,
    ),
    Parser(
        "report: manifest",
        "json",
        _seeds_of("sft/final/coldstart.json"),
        _reported("sft/final/coldstart.json"),
        _REPORT,
        1,
    ),
    Parser("report: pictures", "bytes", _pictures, _picture, (), 25),
    Parser("status file", "json", _seeds_of("status.json"), _status, (ValueError, PlaceError), 25),
    Parser("progress lines", "lines", _seeds_of("metrics.jsonl"), _metrics, (), 25),
    Parser("stored responses", "lines", _seeds_of("samples.jsonl"), _benchmark, (ValueError,), 50),
    Parser(
        "results document", "json", _seeds_of("results.json"), _results, (ValueError,), weight=150
    ),
    Parser("checkpoint manifest", "json", _manifests, _manifest, (CheckpointError,), 50),
)
