"""What a pod may leave as its termination message: a result, or a clear end without one.

Truncated, foreign, forged and random messages go through everything that reads them, down to the
status that is written; `test_pytorchjob` and `test_reconcile` have the plain cases.
"""

import json
import random
import string
from functools import cache
from pathlib import Path

import pytest
import yaml
from apiserver.schema import mistakes
from apiserver.scripts import Behaviour, success
from builders import NOW, result
from child_objects import cluster_run, condition, order_of, seen_pod
from operating import SFT_ONLY, ended, holds, stage, world
from operating import condition as condition_of
from oracles import at_rest, violations
from strategies import EXAMPLES

from coldstart.children.backend import backend
from coldstart.children.observation import MESSAGE_CHARACTERS, parse_result
from coldstart.plan import next_step
from coldstart.stage import RESULT_BYTES
from coldstart.status import ErrorCode, RunStatus, StageState, StageStatus
from coldstart_operator.reconcile import decide
from coldstart_operator.recorder import event, notes
from coldstart_operator.sight import Found, Sight

MANIFEST = Path(__file__).parents[2] / "manifests" / "crd.yaml"
VERSION = yaml.safe_load(MANIFEST.read_text())["spec"]["versions"][0]
STATUS = VERSION["schema"]["openAPIV3Schema"]["properties"]["status"]

RED = "\x1b[31mred\x1b[0m\r\n\u202etxt\u2028\x00\x07end"


def changed(of, **changes):
    """A good result with some of its fields replaced."""
    return json.dumps(json.loads(success(of)) | changes).encode()


def inside(attempt, key, **changes):
    """A good result with fields of a section replaced."""
    document = json.loads(success(attempt))
    document[key] = document[key] | changes
    return json.dumps(document).encode()


def failed(message, code="Internal", **more):
    return lambda attempt: json.dumps(
        json.loads(success(attempt))
        | {"checkpoint": None, "error": {"code": code, "message": message, **more}}
    ).encode()


GOOD, BAD, GONE = "Succeeded", "Internal", "NoResult"

MESSAGES = {
    "another attempt's": (lambda a: changed(a, attempt=a.number + 1), 0, GONE),
    "another stage's": (lambda a: changed(a, stage="grpo"), 0, GONE),
    "another run's": (lambda a: inside(a, "run", name="other"), 0, GONE),
    "of a later version": (lambda a: changed(a, schemaVersion=2), 0, GONE),
    "with a key that is unknown": (lambda a: changed(a, extra=1), 0, GONE),
    "an error of no code": (failed("x", "Nonsense"), 1, "Internal"),
    "a failure that says it succeeded": (success, 1, "Internal"),
    "a killed one that says it succeeded": (success, 137, "WorkerLost"),
    "an error and exit code 0": (failed("x", "DatasetInvalid"), 0, "DatasetInvalid"),
    "an error in colours": (failed(RED, "DatasetInvalid"), 2, "DatasetInvalid"),
    "an endless error": (failed("a" * 3500, "DatasetInvalid"), 2, "DatasetInvalid"),
    "not a number": (lambda a: inside(a, "metrics", loss=float("nan")), 0, GONE),
    "infinite": (lambda a: inside(a, "metrics", loss=float("inf")), 0, GONE),
    "a great number": (lambda a: inside(a, "metrics", loss=1e308), 0, "GateRefused"),
    "a whole number of 400 digits": (lambda a: inside(a, "metrics", loss=10**400), 0, GONE),
    "a number as text": (lambda a: inside(a, "metrics", loss="low"), 0, GONE),
    "numbers without a name": (lambda a: inside(a, "metrics", **{RED: 1, "": 2}), 0, GOOD),
    "300 numbers": (lambda a: inside(a, "metrics", **{f"{n}": n for n in range(300)}), 0, GONE),
    "a digest that is none": (lambda a: inside(a, "checkpoint", digest="sha256:x"), 0, GONE),
    "a place outside": (lambda a: inside(a, "checkpoint", location="../../etc"), 0, GONE),
    "a place at the root": (lambda a: inside(a, "checkpoint", location="/etc"), 0, GONE),
    "a place in colours": (lambda a: inside(a, "checkpoint", location=RED), 0, GONE),
    "a step below zero": (lambda a: inside(a, "checkpoint", step=-1), 0, GONE),
    "a step beyond 64 bits": (lambda a: inside(a, "checkpoint", step=1e30), 0, GONE),
    "no checkpoint": (lambda a: changed(a, checkpoint=None), 0, "GateRefused"),
    "not UTF-8": (b"\xff\xfe" * 100, 0, GONE),
    "cut in a character": (lambda a: success(a)[:-30] + "ä".encode()[:1], 0, GONE),
    "4,097 bytes": (lambda a: success(a) + b" " * 4096, 0, GOOD),  # the kubelet cuts blanks
    "a list": (b"[]", 0, GONE),
    "a null": (b"null", 0, GONE),
    "maps in maps": (b'{"a":' * 800 + b"1" + b"}" * 800, 0, GONE),
    "a bomb of digits": (b"9" * 4096, 0, GONE),
    "zero bytes": (b"\0" * 4096, 0, GONE),
}


def test_every_message_ends_its_run_with_a_clear_word(tmp_path):
    names = {f"m{number}": case for number, case in enumerate(MESSAGES.values())}

    def script(attempt):
        message, code, _ = names[attempt.run]
        return Behaviour(message=message, exit_code=code)

    once = {"retry": {"limit": 0}}
    sft = {"dataset": {"name": "d"}, "gate": {"maxLoss": 5}}
    with world(tmp_path, script) as w, w.operator():
        for name in names:
            w.apply(name, **SFT_ONLY, **once, sft=sft)
        for name, (_, _, wanted) in names.items():
            run = w.until(ended, name, 30)
            entry = stage(run, "sft")
            if wanted == GOOD:
                assert holds(run, "Succeeded"), (name, run["status"])
                assert set(entry["metrics"]) == {"loss", "probe_accuracy", "boxed_share"}
                continue
            assert holds(run, "Failed"), (name, run["status"])
            assert condition_of(run, "Failed")["reason"] == wanted, (name, run["status"])
            assert run["status"]["message"]
        assert len(w.created()) == len(names)
        assert at_rest(w.server) == []
        assert violations(w.server) == []
        for item in w.server.list("events"):
            assert item["message"].isprintable()


def test_a_digest_that_is_a_lie_goes_into_the_next_order_where_the_stage_checks_it(tmp_path):
    lie = "sha256:" + "f" * 64
    script = lambda attempt: (  # noqa: E731
        Behaviour(message=lambda a: inside(a, "checkpoint", digest=lie))
        if attempt.stage == "sft"
        else Behaviour(exit_code=2, message=failed("it is another one", "CheckpointMismatch"))
    )
    with world(tmp_path, script) as w, w.operator():
        w.apply(evaluation=None)
        run = w.until(ended)
        assert condition_of(run, "Failed")["reason"] == "CheckpointMismatch"
        orders = [str(item.body) for item in w.server.requests.of("create", "pytorchjobs")]
        assert [lie in order for order in orders] == [False, True]
        assert w.created() == ["r-sft-1", "r-grpo-1"]
        assert violations(w.server) == []


PRINTABLE = string.printable + "äß€\U0001f600\x00\x1b\u202e\ud7ff"
PIECES = (
    '"',
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "null",
    "NaN",
    "-Infinity",
    "1e999",
    "-0",
    "1e308",
    "9" * 400,
    '"\\ud800"',
    '"\\u0000"',
    '"metrics":{}',
    '"error":null',
    '"attempt":2',
    "true",
)


def damaged(random_, message):
    """A message with one to four pieces of it taken away, doubled or exchanged."""
    for _ in range(random_.randint(1, 4)):
        begin = random_.randint(0, len(message))
        end = begin + random_.choice((0, 0, 1, 2, 10, 60))
        put = random_.choice(
            (
                random_.choice(PIECES),
                message[begin:end] * 2,
                "".join(random_.choices(PRINTABLE, k=3)),
            )
        )
        message = message[:begin] + put + message[end:]
    return message


def random_message(random_):
    """A message of any kind; most begin as a result."""
    whole = result(
        error=random_.choice((*[None] * 10, *ErrorCode)),
        loss=random_.choice((0.5, 1e308, -1.0)),
        probe_accuracy=random_.random(),
    )
    text = whole.encode().decode()
    kind = random_.randrange(6)
    if kind == 0:
        return "".join(random_.choices(PRINTABLE, k=random_.randint(0, 300)))
    if kind == 1:
        return text[: random_.randint(0, len(text))]
    if kind == 2:
        document = json.loads(text)
        path = random_.choice(list(document))
        document[path] = random_.choice((None, [], {}, "", RED, 0, -1, 1e308, True))
        return json.dumps(document)[: random_.choice((RESULT_BYTES, 5000))]
    return damaged(random_, text)


@cache
def started():
    """A run whose first stage runs, and its job."""
    run = cluster_run(sft={"dataset": {"name": "d"}, "gate": {"minAccuracy": 0.5, "maxLoss": 1}})
    entry = StageStatus(name="sft", state=StageState.RUNNING, attempt=1, attempt_started_at=NOW)
    run = run.model_copy(update={"status": RunStatus(stages=(entry,), started_at=NOW)})
    kind = backend("PyTorchJob")
    job = kind.manifests(run, order_of(run), "image")[-1]
    job["metadata"] |= {"uid": "job-uid", "namespace": "ml"}
    return run, job


def judged(message, code):
    """The status that the operator would write about a job that ended so."""
    run, job = started()
    kind = backend("PyTorchJob")
    job["status"] = {"conditions": [condition("Failed" if code else "Succeeded")]}
    phase = "Failed" if code else "Succeeded"
    pod = seen_pod(job, phase=phase, code=code, message=message)
    child = kind.observe(job, [pod], NOW)
    decision = decide(run, Sight((Found(kind, job, child),), (), {}, (pod,)), NOW)
    return run, child, decision


def test_no_message_makes_a_status_that_cannot_be_written_or_shown():
    random_ = random.Random(20_250_101)
    states = set()
    for _ in range(max(2_000, EXAMPLES)):
        message, code = random_message(random_), random_.choice((0, 0, 1, 2, 137))
        run, _, decision = judged(message, code)
        status = decision.status.document()
        json.dumps(status, allow_nan=False).encode()
        assert [item["message"] for item in mistakes(status, STATUS)] == [], message
        entry = decision.status.stages[0]
        states.add(entry.state)
        assert entry.state is not StageState.RUNNING
        for text in texts(status):
            assert text.isprintable(), (message, text)
            assert len(text) <= 4096
        for note in notes(run.status, decision.status):
            assert len(event({"metadata": {"name": "r"}}, note, NOW)["message"]) <= 1024
        # What was decided once is decided again, whatever was said.
        again = run.model_copy(update={"status": decision.status})
        assert next_step(again, decision_sight(), NOW).status.stages[0].gates == entry.gates
    assert states == {StageState.SUCCEEDED, StageState.FAILED, StageState.BACKOFF}


def decision_sight():
    """Nothing is there any more."""
    return Sight((), (), {}).observation


def texts(value):
    """Every text in a document, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


@pytest.mark.parametrize("text", [RED, "\x1b]0;title\x07" * 100, "a\nb", "ä" * 3000])
def test_the_words_of_a_pod_are_one_printable_line(text):
    document = json.loads(result(error="Internal").encode()) | {
        "error": {"code": "Internal", "message": text[:1500]}
    }
    found = parse_result(json.dumps(document, ensure_ascii=False))
    assert found.error.message.isprintable()
    assert 0 < len(found.error.message) <= MESSAGE_CHARACTERS


@pytest.mark.parametrize("name", ["", " ", "a b", "\x1b[0m", "ä", "a" * 200, "a\n"])
def test_numbers_under_names_that_are_none_are_left_out(name):
    document = json.loads(result(loss=1.0).encode())
    document["metrics"][name] = 2.0
    assert parse_result(json.dumps(document)).metrics == {"loss": 1.0}
