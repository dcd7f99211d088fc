"""The distill stage against an endpoint in this process: rows, cards, kills, and the next stage."""

import base64
import errno
import json
import os
import re
import time
from collections import Counter
from pathlib import Path

import forked
import pyarrow.parquet as pq
import pytest
from fake_teacher import MODEL, completion, serving, told
from stage_attempts import CONVERSATION, SFT, again, here, lines, read_result, stage_order

from coldstart.checkpoint import CheckpointError, verify
from coldstart.dataset import Dataset
from coldstart.distill import Distill
from coldstart.files import json_lines
from coldstart.layout import ROWS, output
from coldstart.stage import StageOrder, gate
from coldstart.status import ErrorCode
from coldstart_trainer import __main__ as entry
from coldstart_trainer import data, inputs
from coldstart_trainer.errors import StageFailure
from coldstart_trainer.model import load_processor

PATTERNS = ("distilled-cot", "reflection-cot", "caption-cot", "self-critic-cot")


@pytest.fixture(scope="session")
def numbers(tiny_rows):
    """What is the answer to the question of which picture."""
    folder = tiny_rows.parent
    return {
        base64.b64encode((folder / f"{row['id'][1:]}.png").read_bytes()).decode(): row["answer"]
        for row in json_lines(tiny_rows)
    }


@pytest.fixture
def order(tmp_path, tiny_model, tiny_rows):
    def made(url, **section):
        teacher = {"baseUrl": url, "model": MODEL}
        distill = {"dataset": {"name": str(tiny_rows)}, "teacher": teacher, "samples": 3} | section
        (tmp_path / "work").mkdir(exist_ok=True)
        spec = {
            "conversation": CONVERSATION | {"maxCompletionTokens": 200},
            "distill": distill,
            "sft": SFT | {"maxSteps": 1, "batchSize": 2, "probe": {"size": 0}},
        }
        return stage_order("distill", tiny_model, tmp_path / "runs", tmp_path / "work", spec)

    return made


def gold(request, numbers):
    """The right answer to a request."""
    [url] = {
        part["image_url"]["url"].partition(",")[2]
        for message in request["messages"]
        for part in message["content"]
        if isinstance(part, dict) and part["type"] == "image_url"
    }
    return numbers[url]


def right(numbers):
    return lambda request: completion(f"It is \\boxed{{{gold(request, numbers)}}}.")


def rows(given):
    return pq.read_table(output(given).final / ROWS).to_pylist()


def card(given):
    return json.loads((output(given).final / "card.json").read_text())


@pytest.mark.parametrize("name", PATTERNS)
def test_rows_of_each_pattern_end_with_the_right_answer_and_say_where_they_are_from(
    name, order, numbers, tiny_rows
):
    turns = Counter()

    def answer(request):
        """Wrong where the seed is odd; critics and describers say their part."""
        text, _ = told(request)
        turns[len(request["messages"])] += 1
        if "describe" in text:
            return completion("There are digits.")
        number = int(gold(request, numbers)) + request["seed"] % 2
        return completion(f"I see {number}: \\boxed{{{number}}}.")

    with serving(answer) as (_, url):
        given = order(url, patterns=[{"name": name}], samples=6, keep="all")
        result = here(given)
    made = rows(given)
    assert result.checkpoint.step == len(made) == result.metrics["rows"]
    assert 0 < result.metrics["yield_share"] <= 1
    assert {row["verdict"] for row in made} == {"correct"}
    assert {row["pattern"] for row in made} == {name}
    assert {row["teacher"] for row in made} == {MODEL}
    for row in made:
        assert row["answer"] == row["source_id"].removeprefix("q")
        assert row["response"].endswith(f"\\boxed{{{row['answer']}}}.")
        assert row["response"].count("boxed") == 1
        assert re.fullmatch(r"sha256:[0-9a-f]{64}", row["template"])
        assert json.loads(row["sampling"])["max_tokens"] == 200
        assert row["images"][0]["bytes"]
    if name == "reflection-cot":
        assert all("I see" in row["response"].partition("re-evaluate")[0] for row in made)
    depth = {"caption-cot": 2, "self-critic-cot": 3}.get(name, 1)
    assert set(turns) == {2 * turn for turn in range(1, depth + 1)}
    told_of = card(given)["patterns"][name]
    assert told_of["samples"] == 24 * 6
    assert told_of["rows"] == len(made)
    assert told_of["verdicts"]["correct"] == len(made)


def test_keep_says_which_right_samples_become_rows(order, numbers):
    def answer(request):
        number = int(gold(request, numbers))
        mark = request["seed"] % 4
        return completion(f"{'so ' * mark}\\boxed{{{number + (mark == 3)}}}")

    found = {}
    with serving(answer) as (teacher, url):
        for keep in ("all", "shortest", "first"):
            given = order(url, keep=keep, samples=4).model_copy(
                update={"storage": order(url).storage + keep}
            )
            here(given)
            found[keep] = rows(given)
            found[f"asked {keep}"] = len(teacher.asked)
    by_question = {}
    for row in found["all"]:
        by_question.setdefault(row["source_id"], []).append(row)
    assert [row["source_id"] for row in found["shortest"]] == list(by_question)
    for row in found["shortest"]:
        every = by_question[row["source_id"]]
        assert len(row["response"]) == min(len(other["response"]) for other in every)
    assert [row["id"] for row in found["first"]] == [
        every[0]["id"] for every in by_question.values()
    ]
    assert found["asked all"] == 24 * 4
    # After a right answer no more is asked.
    last = {row["source_id"]: int(row["id"].partition("#")[2]) for row in found["first"]}
    expected = sum(last.get(f"q{number}", 3) + 1 for number in range(24))
    assert found["asked first"] - found["asked shortest"] == expected


def test_wrong_answers_are_kept_on_purpose_only(order, numbers):
    def answer(request):
        return completion(f"\\boxed{{{int(gold(request, numbers)) + 1}}}")

    with serving(answer) as (_, url):
        with pytest.raises(StageFailure, match=r"none of the 72 samples .*wrong: 72") as refused:
            here(order(url))
        assert refused.value.code is ErrorCode.DATASET_INVALID
        given = order(url, keepWrong=True)
        result = here(given)
    assert {row["verdict"] for row in rows(given)} == {"wrong"}
    assert result.metrics["correct_share"] == 0
    assert "kept on purpose" in (output(given).final / "README.md").read_text()


def test_every_way_to_fail_is_named_and_counted_and_the_gate_judges_the_rest(
    order, numbers, tiny_rows, tmp_path
):
    """Of 24 questions 3 are cut short, 3 are too long, 3 refused, 3 without a box, 3 filtered."""

    def answer(request):
        number = gold(request, numbers)
        kind = int(number) // 3
        if kind == 2:
            return 400, {}, b"no"
        text = {1: "word " * 300 + f"\\boxed{{{number}}}", 3: "I do not know"}.get(kind)
        finish = {0: "length", 4: "content_filter"}.get(kind, "stop")
        return completion(text or f"\\boxed{{{number}}}", finish)

    (tmp_path / "work").mkdir()
    with serving(answer) as (_, url):
        given = order(url, samples=1, gate={"minYield": 0.5})
        result = here(given)
    assert result.metrics["yield_share"] == 9 / 24
    assert result.metrics["failed_requests"] == 3
    told_of = card(given)
    assert told_of["verdicts"] == {
        "truncated": 3,
        "too_long": 3,
        "failed": 3,
        "no_answer": 3,
        "filtered": 3,
        "correct": 9,
    }
    assert told_of["failedRequests"] == {"refused": 3}
    assert told_of["source"]["questionsWithoutRows"] == 15
    assert told_of["source"]["licence"] == "unknown"
    spec = given.spec.distill
    assert isinstance(spec, Distill)
    verdicts = {verdict.name: verdict.passed for verdict in gate(spec.gate, result)}
    assert verdicts == {"checkpoint": True, "minYield": False}
    values = lines(given)[-2]["values"]
    assert values["samples_total"] == 24
    assert values["teacher_requests_total{refused}"] == 3
    assert values["tokens_total{completion}"] == 3 * 21


def test_fine_tuning_takes_exactly_the_rows_that_were_made(order, numbers):
    with serving(right(numbers)) as (_, url):
        made = here(order(url, samples=1))
    distilled = {
        "name": "distill",
        "location": made.checkpoint.location,
        "digest": made.checkpoint.digest,
    }
    given = order(url)
    document = given.document() | {"stage": "sft", "inputs": [given.document()["inputs"][0]]}
    document["inputs"].append(distilled)
    del document["spec"]["distill"]  # it may be another run's
    document["spec"]["sft"]["from"] = {"run": given.run.name}
    learning = StageOrder.parse(document)
    result = here(learning)
    manifest = verify(Path(learning.storage) / result.checkpoint.location)
    assert manifest.datasets[0].rows == 24
    rows_file = output(given).final / ROWS
    rows_file.write_bytes(rows_file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is torn"):
        inputs.resolve(learning)


def test_after_a_kill_and_a_stop_nothing_is_asked_again_that_was_answered(
    order, numbers, tmp_path, tiny_model, conversation
):
    """Real processes: one is killed, the next told to end; the third asks for what is missing."""
    limit = [8]

    def answer(request):
        while len(teacher.asked) > limit[0]:
            time.sleep(0.01)
        return completion(f"\\boxed{{{gold(request, numbers)}}}")

    with serving(answer) as (teacher, url):
        given = order(url, samples=2, keep="all", concurrency=4)
        (process,) = forked.ranks(given, tmp_path / "1.json")
        _answered(given, 8, process)
        process.kill()
        forked.ended([process])
        limit[0] = 24
        second = again(given)
        (process,) = forked.ranks(second, tmp_path / "2.json")
        _answered(given, 20, process)
        process.terminate()
        assert forked.ended([process]) == [143]
        assert read_result(tmp_path / "2.json").error.code is ErrorCode.TERMINATED
        kept = len(list(json_lines(output(given).answers)))
        limit[0] = 10**6
        asked = len(teacher.asked)
        result = entry.attempt(again(second), 0)
        assert result.error is None, result.error
        assert len(teacher.asked) - asked == 48 - kept
        asked = len(teacher.asked)
        assert entry.attempt(again(again(second)), 0).metrics == result.metrics
        assert len(teacher.asked) == asked
    # In flight were at most four at the kill, and four at the stop.
    repeated = Counter(request["seed"] for request in teacher.asked)
    assert len(repeated) == 48
    assert sum(repeated.values()) <= 48 + 8
    assert result.metrics["rows"] == 48
    loaded = data.load(
        Dataset(name=str(output(given).final / ROWS)),
        target="response",
        conversation=given.spec.conversation,
        processor=load_processor(tiny_model, conversation),
        workdir=tmp_path,
        seed=0,
        field="f",
    )
    assert len(loaded) == 48


def _answered(given, count, process):
    end = time.monotonic() + 120
    while len(list(json_lines(output(given).answers))) < count:
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_disk_that_fills_half_way_keeps_every_answer_so_far(order, numbers, monkeypatch):
    write, room = os.pwrite, [10]

    def filling(file, content, offset):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, content, offset)

    with serving(right(numbers)) as (teacher, url):
        given = order(url, samples=1, concurrency=2)
        monkeypatch.setattr(os, "pwrite", filling)
        full = entry.attempt(given, 0)
        assert full.error.code is ErrorCode.STORAGE_FULL
        assert len(list(json_lines(output(given).answers))) == 10
        monkeypatch.setattr(os, "pwrite", write)
        asked = len(teacher.asked)
        done = entry.attempt(again(given), 0)
        assert done.error is None, done.error
        assert len(teacher.asked) - asked == 14
    assert done.metrics["rows"] == 24


def test_a_mistake_is_told_before_anything_is_asked(order, numbers, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with serving(right(numbers)) as (teacher, url):
        for teaching, message in (
            ({"model": "other"}, "has no model 'other'"),
            ({"apiKeyEnv": "NO_SUCH_KEY"}, "apiKeyEnv: the environment variable NO_SUCH_KEY"),
            ({"baseUrl": f"{url}/v2"}, "or baseUrl is wrong"),
        ):
            refused = entry.attempt(
                order(url, teacher={"baseUrl": url, "model": MODEL} | teaching), 0
            )
            assert refused.error.code is ErrorCode.ENDPOINT_REFUSED
            assert message in refused.error.message
        assert teacher.asked == []
