"""What reads words of others: each parser, good inputs for it, and the errors that it may raise.

Those that need torch are in `hostile_models`; nothing is judged here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from builders import NOW, make_run, result
from child_objects import cluster_run, condition, order_of, seen_job, seen_pod
from sample_run import document

from coldstart import parcel, runfile
from coldstart.benchmarks import RowError, problem
from coldstart.chat.completion import CallFailed, parsed, retry_after
from coldstart.children.backend import BACKENDS
from coldstart.children.observation import parse_result
from coldstart.grading import Gold, extract
from coldstart.grading.match import UnreadableGold, decide
from coldstart.lexicon import MAYE_LIST, Lexicon
from coldstart.memory import shapes
from coldstart.runfile import RunFileError
from coldstart.stage import ORDER_ENV, StageOrder
from coldstart.study.spec import Study
from coldstart_operator import progress
from coldstart_operator.explain import cause, waiting_reason
from coldstart_operator.webhook import MalformedReview, answer

Seeds = Callable[[], Sequence[bytes]]


@dataclass(frozen=True)
class Parser:
    """One reader of foreign words."""

    name: str
    form: str
    """As `hostile_inputs.mutated` has it."""
    seeds: Seeds
    feed: Callable[[bytes, Path], object]
    documented: tuple[type[Exception], ...] = ()
    weight: int = 100
    """How many inputs it gets, as a share of the usual, in percent: fewer where one costs more."""
    starts: bool = False
    """Whether it may start a process of its own."""
    prepare: Callable[[Path], object] = lambda home: home
    """Puts into its directory what is no part of the input."""


def as_json(*documents: Any) -> list[bytes]:
    """Documents as inputs."""
    return [json.dumps(each).encode() for each in documents]


# What pods say


def _messages() -> list[bytes]:
    return [result(loss=0.5, probe_accuracy=0.7).encode(), result(error="Internal").encode()]


def _message(data: bytes, _: Path) -> object:
    found = parse_result(data.decode("utf-8", "replace"))
    if found is not None:
        json.dumps(found.document(), ensure_ascii=False).encode()
        # It goes into a status, whose whole numbers have 64 bits.
        assert found.checkpoint is None or found.checkpoint.step < 1 << 63
    return found


def _pages() -> list[bytes]:
    labels = '{run="r",stage="grpo"}'
    lines = [f"coldstart_step{labels} 120", f"coldstart_max_steps{labels} 496 1712345678"]
    lines += [f"coldstart_reward_total_mean{labels} 0.75", "# HELP x y", "other 1e3"]
    return ["\n".join(lines).encode(), b'coldstart_step 1\ncoldstart_step{a="}"} 2\n']


def _page(data: bytes, _: Path) -> object:
    told = progress.numbers(data.decode(errors="replace"))
    return [progress.progress(stage, told) for stage in ("sft", "grpo")]


# Objects of the cluster


@cache
def _objects() -> list[bytes]:
    made = []
    for item in BACKENDS:
        job = seen_job(item.name, condition("Running"), condition("Failed", at=5), active=1)
        pods = [
            seen_pod(job, 0, "Failed", code=1, message=result(error="Internal").encode().decode()),
            seen_pod(job, 1, "Pending", waiting={"reason": "ErrImagePull", "message": "no"}),
            seen_pod(job, 1, deleted_at=3, conditions=[condition("DisruptionTarget")]),
        ]
        event = {
            "type": "Warning",
            "reason": "FailedCreatePod",
            "message": "exceeded quota: gpus",
            "lastTimestamp": "2026-01-01T00:00:00Z",
            "involvedObject": {"kind": "Pod", "name": pods[0]["metadata"]["name"], "uid": "pod-0"},
        }
        made += as_json({"kind": item.name, "job": job, "pods": pods, "events": [event]})
    return made


def _observed(data: bytes, _: Path) -> object:
    given = _mapping(data)
    job, pods, events = (given.get(key) for key in ("job", "pods", "events"))
    job = job if isinstance(job, dict) else {}
    pods, events = (
        [item for item in (some if isinstance(some, list) else []) if isinstance(item, dict)]
        for some in (pods, events)
    )
    for item in BACKENDS:
        item.observe(job, pods, NOW)
    line = waiting_reason(job, pods, events)
    assert line.isprintable()
    assert len(line) <= 512
    return cause(line)


def _mapping(data: bytes) -> dict[str, Any]:
    """A mapping, as what came before has read it: the API server's answer is JSON."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _reviews() -> list[bytes]:
    run = cluster_run().document()
    request = {
        "uid": "u",
        "kind": {"group": "coldstart.dev", "version": "v1alpha1", "kind": "ReasoningRun"},
        "operation": "UPDATE",
        "name": "r",
        "object": run,
        "oldObject": run | {"status": {"startedAt": "2026-01-01T00:00:00Z"}},
    }
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    return as_json(review, review | {"request": request | {"operation": "CREATE"}})


# What endpoints answer


def _answers() -> list[bytes]:
    usage = {"prompt_tokens": 7, "completion_tokens": 9}
    message = {"role": "assistant", "content": "So \\boxed{7}."}
    return as_json(
        {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage},
        {"error": {"message": "no such model", "code": 404}},
        {"message": "busy"},
    )


def _chat(data: bytes, _: Path) -> object:
    retry_after(data[:200].decode("utf-8", "surrogateescape"))
    found = parsed(data, silent=False)
    return json.dumps(vars(found), ensure_ascii=False).encode()


def _parcels() -> list[bytes]:
    return [parcel.packed(b"<html>" * 100).encode(), parcel.REFUSAL.format(reason="no").encode()]


# Run files


def _runs() -> list[bytes]:
    run = document()
    return [
        yaml.safe_dump(run).encode(),
        json.dumps(run).encode(),
        yaml.safe_dump(make_run().document()).encode(),
    ]


def _run_file(data: bytes, home: Path) -> object:
    (home / "run.yaml").write_bytes(data)
    return runfile.load(home / "run.yaml")


def _studies() -> list[bytes]:
    path = Path(__file__).parents[1] / "examples" / "quickstart" / "study.yaml"
    return [json.dumps(yaml.safe_load(path.read_bytes())).encode(), path.read_bytes()]


def _study(data: bytes, home: Path) -> object:
    (home / "study.yaml").write_bytes(data)
    return Study.parse(runfile.mapping(home / "study.yaml", "Study"))


def _orders() -> list[bytes]:
    run = cluster_run()
    return [json.dumps(order_of(run, stage).document()).encode() for stage in run.spec.stages]


def _ordered(data: bytes, _: Path) -> object:
    return ORDER_ENV, StageOrder.parse(_mapping(data))


# Answers and golds


def _pairs() -> list[bytes]:
    path = Path(__file__).with_name("grading_pairs.jsonl")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:400]]
    made = [
        {
            "response": f"So $\\boxed{{{line.get('response') or line.get('stated') or '7'}}}$",
            "gold": str(line.get("gold", "7")),
        }
        for line in lines
    ]
    options = {"choices": ["3", "4", "x^2"], "gold": "B", "response": "\\boxed{(B) 4}"}
    sets = {"gold": r"\{1, \{2, x\}\}", "response": r"\boxed{\{\{x, 2\}, 1\}}"}
    declared = {"gold": "1.50", "response": "\\boxed{1.5 cm}", "precision": 2, "unit": "cm"}
    typed = {"gold": "(1, 2]", "response": "\\boxed{1 < x \\le 2}", "answer_type": "interval"}
    return as_json(*made, options, sets, declared, typed)


def _graded(data: bytes, _: Path) -> object:
    given = _mapping(data)
    text, gold = str(given.get("response", "")), str(given.get("gold", ""))
    choices = given.get("choices")
    choices = tuple(map(str, choices)) if isinstance(choices, list) else None
    precision = given.get("precision")
    precision = precision if isinstance(precision, int) else None
    unit, kind = given.get("unit"), given.get("answer_type")
    known = Gold(
        gold,
        choices,
        kind if isinstance(kind, str) else None,  # type: ignore[arg-type]
        precision,
        unit if isinstance(unit, str) else None,
    )
    spans = {extract(text, boxed_only=only, lettered=bool(choices)).span for only in (True, False)}
    return [decide(span, known) for span in (*spans, text) if span]


def _reflected(data: bytes, _: Path) -> object:
    return Lexicon(MAYE_LIST.entries).found(data.decode("utf-8", "replace"))


def _rows_released() -> list[bytes]:
    vista = {
        "pid": "1",
        "question": "q",
        "choices": ["a", "b"],
        "question_type": "free_form",
        "answer": "1.5",
        "answer_type": "float",
        "precision": 1.0,
        "unit": "cm",
        "metadata": {"task": "t", "grade": "g", "category": "c"},
    }
    wemath = {"option": "A. 1; B. 2", "question": "q", "key": "2steps_1", "ID": "7", "answer": "A"}
    verse = {
        "question": "q Choices: A:1 B:2",
        "sample_index": 1,
        "problem_index": 2,
        "answer": "A",
        "problem_version": "v",
        "metadata": {},
    }
    vision = {"id": 1, "question": "<image1> q", "options": ["1", "2"], "answer": "A"}
    return as_json(
        *(
            {"schema": name, "row": row}
            for name, row in {
                "mathvista": vista,
                "wemath": wemath,
                "mathverse": verse,
                "mathvision": vision,
            }.items()
        )
    )


def _released(data: bytes, _: Path) -> object:
    """A row has its columns: their types are the file's, which whoever made it chose."""
    given = _mapping(data)
    for seed in map(json.loads, _rows_released()):
        row = given.get("row")
        if (
            given.get("schema") == seed["schema"]
            and isinstance(row, dict)
            and row.keys() >= seed["row"].keys()
        ):
            return problem(seed["schema"], row)
    return None


def _configs() -> list[bytes]:
    return as_json(*list(shapes.published().values())[:4])


def _shape(data: bytes, home: Path) -> object:
    (home / "config.json").write_bytes(data)
    return shapes.read(home / "config.json").parameters


PARSERS: tuple[Parser, ...] = (
    Parser("termination message", "json", _messages, _message, weight=150),
    Parser("metrics page", "text", _pages, _page, weight=150),
    Parser("jobs, pods, events", "json", _objects, _observed, weight=150),
    Parser(
        "admission review", "json", _reviews, lambda data, _: answer(data), (MalformedReview,), 25
    ),
    Parser("chat answer", "json", _answers, _chat, (CallFailed,), weight=150),
    Parser(
        "parcel in a log",
        "text",
        _parcels,
        lambda data, _: parcel.unpacked(data.decode("utf-8", "replace")),
        (parcel.ParcelError,),
        weight=150,
    ),
    Parser("run.yaml", "json", _runs, _run_file, (RunFileError,), 25),
    Parser("study.yaml", "json", _studies, _study, (ValueError,), 25),
    Parser("stage order", "json", _orders, _ordered, (ValueError,), 50),
    Parser("answer and gold", "json", _pairs, _graded, (UnreadableGold, ValueError), 200),
    Parser("words of reflection", "text", _pairs, _reflected, weight=150),
    Parser("released benchmark row", "json", _rows_released, _released, (RowError,), weight=150),
    Parser("model's shape", "json", _configs, _shape, (shapes.ShapeError,), weight=150),
)
