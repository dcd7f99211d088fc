"""The judge: what it is asked, what its words mean, what it costs, and an endpoint that fails."""

import json
import threading
import time
from email.utils import formatdate

import pytest
from click.testing import CliRunner
from fake_judge import MODEL, completion, judging, same_digits
from sample_run import DIGEST, finished_run

from coldstart.chat import client as asking
from coldstart.cli import main
from coldstart.evaluation import JudgeModel
from coldstart.judging import EndpointError, Judge, Prompt, client_of, judge_factory
from coldstart.results import Sample
from coldstart.status import ErrorCode
from coldstart.summary import Origin, read_samples

KEY = "sk-very-secret"


def sample(gold="7", response="It is \\boxed{7}.", **fields):
    return Sample.model_validate(
        {
            "id": gold,
            "problem": "What is it?",
            "gold": gold,
            "response": response,
            "tokens": 3,
            "truncated": False,
            "boxed": False,
            "outcome": "ungraded",
        }
        | fields
    )


def model(url, **fields):
    return JudgeModel.model_validate({"baseUrl": url, "model": MODEL} | fields)


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.001)
    monkeypatch.setenv("JUDGE_KEY", KEY)


def judge(url, directory, **fields):
    return Judge(client_of(model(url, **fields)), Prompt.read(), directory)


def outcomes(grades):
    return [grade.outcome.value for grade in grades]


def test_each_response_is_asked_about_once_and_its_cost_counted(tmp_path):
    samples = [sample(str(number), f"so {number % 3}") for number in range(6)]
    with judging() as (fake, url):
        first = judge(url, tmp_path)
        grades = first.grade([*samples, samples[0]])
        assert outcomes(grades) == ["correct"] * 3 + ["wrong"] * 3 + ["correct"]
        assert [grade.span for grade in grades[:4]] == ["0", "1", "2", "0"]
        again = judge(url, tmp_path)
        assert again.grade(samples) == first.grade(samples) == grades[:6]
        assert len(fake.prompts) == 6
    use = again.use(samples)
    assert (use.asked, use.unclear, use.prompt_tokens, use.completion_tokens) == (6, 0, 66, 24)
    assert first.version.startswith("fake-judge, prompt ")


def test_a_killed_judge_is_not_asked_again_about_what_it_has_judged(tmp_path):
    samples = [sample(str(number), f"so {number}") for number in range(5)]
    with judging() as (fake, url):
        expected = judge(url, tmp_path).grade(samples)
        record = tmp_path / "judge.jsonl"
        lines = record.read_bytes().splitlines(keepends=True)
        record.write_bytes(b"".join(lines[:2]) + lines[2][:20])
        assert judge(url, tmp_path).grade(samples) == expected
        assert len(fake.prompts) == 5 + 3
        # Another prompt is another question.
        other = Judge(client_of(model(url)), Prompt("{gold} or {response}?"), tmp_path)
        fake.answer = lambda _: "no"
        assert outcomes(other.grade(samples[:1])) == ["wrong"]


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "judge.jsonl").write_text('{"key": "k", "promptTokens": 1}\n')
    with pytest.raises(ValueError, match=r"judge\.jsonl: text: is required"):
        judge("http://127.0.0.1:9/v1", tmp_path)


def test_nobody_is_asked_about_nothing(tmp_path):
    empty = [
        sample(response=" "),
        sample(response="", truncated=True),
        sample(gold=" "),
    ]
    with judging() as (fake, url):
        found = judge(url, tmp_path).grade(empty)
    assert outcomes(found) == ["no_answer", "truncated", "gold_unparseable"]
    assert fake.prompts == []


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        ("Answer: 7\nVerdict: yes", "correct"),
        ("**Answer:** 7\n**Verdict:** Yes.", "correct"),
        ("Answer: 8\nVerdict: no", "wrong"),
        ("yes", "correct"),
        ("No.", "wrong"),
        ("It depends.", "judge_unclear"),
        ("Verdict: yes\nVerdict: no", "judge_unclear"),
        ("Verdict: yesterday", "judge_unclear"),
        ("The answer is yes", "judge_unclear"),
        ("Answer: 7\nVerd", "judge_unclear"),
        (None, "judge_unclear"),
        ("", "judge_unclear"),
    ],
)
def test_only_a_clear_yes_is_right(tmp_path, words, outcome):
    body = json.dumps(completion(words)).encode()
    with judging(lambda _: (200, {}, body)) as (_, url):
        asked = judge(url, tmp_path)
        (found,) = asked.grade([sample()])
    assert found.outcome == outcome
    assert asked.use([sample()]).unclear == (outcome == "judge_unclear")
    if outcome == "judge_unclear":
        assert "neither yes nor no" in found.detail


def test_what_is_filled_in_is_not_filled_in_again(tmp_path):
    tricky = sample("{response}", "{gold} {question}", problem="{gold}", choices=("x", "y"))
    prompt = Prompt.read().filled(tricky)
    assert "<correct_answer>\n{response}\n</correct_answer>" in prompt
    assert "<response>\n{gold} {question}\n</response>" in prompt
    assert "(A) x\n(B) y" in prompt
    assert not prompt.startswith("#")
    long = Prompt.read().filled(sample(response="1" * 100_000 + " at last 7"))
    assert len(long) < 25_000
    assert "at last 7" in long


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "there is no file"), ("# ours\nIs {gold} right?", r"has no place for \{response\}")],
)
def test_a_prompt_that_is_none_is_named(tmp_path, text, words):
    if text is not None:
        (tmp_path / "prompt.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"judge\.prompt: .*{words}"):
        judge_factory(model("http://127.0.0.1:9/v1", prompt="prompt.txt"), tmp_path)


PASSING = {
    "rate limit": (429, {"Retry-After": "0"}, b""),
    "rate limit with a date": (429, {"Retry-After": formatdate(time.time() - 5, usegmt=True)}, b""),
    "rate limit with nonsense": (429, {"Retry-After": "soon"}, b""),
    "fault": (500, {}, b"oops"),
    "gateway": (502, {}, b"<html>"),
    "cut short": (200, {"Content-Length": 500}, b'{"choices": [{"mess'),
    "malformed": (200, {}, b'{"choices": [{"mess'),
    "no completion": (200, {}, b'{"choices": []}'),
    "no object": (200, {}, b"[1]"),
    "negative cost": (
        200,
        {},
        b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": -1}}',
    ),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_fault_that_passes_is_sat_out(tmp_path, fault):
    left = [fault, fault]
    with judging(lambda prompt: left.pop() if left else same_digits(prompt)) as (fake, url):
        (found,) = judge(url, tmp_path).grade([sample()])
        assert found.correct
        assert len(fake.prompts) == 3


@pytest.mark.parametrize("fault", [PASSING["fault"], PASSING["malformed"]])
def test_a_fault_that_stays_ends_the_stage_and_keeps_what_is_judged(tmp_path, fault):
    samples = [sample(str(number), f"so {number}") for number in range(4)]
    with judging(lambda prompt: fault if "so 3" in prompt else same_digits(prompt)) as (fake, url):
        with pytest.raises(EndpointError, match="given up after 7 tries, the last with") as caught:
            judge(url, tmp_path, concurrency=1).grade(samples)
        assert caught.value.code is ErrorCode.ENDPOINT_DOWN
        fake.answer = same_digits
        asked = len(fake.prompts)
        assert outcomes(judge(url, tmp_path).grade(samples)) == ["correct"] * 4
        assert len(fake.prompts) == asked + 1


def test_an_endpoint_that_never_answers_is_named(tmp_path):
    release = threading.Event()
    with judging(lambda _: str(release.wait(60))) as (_, url):
        slow = judge(url, tmp_path, timeoutSeconds=0.2)
        with pytest.raises(EndpointError, match=r"no answer within 0\.2 s") as caught:
            slow.grade([sample()])
        release.set()
    assert caught.value.code is ErrorCode.ENDPOINT_DOWN


def test_what_is_down_is_named_by_the_probe(tmp_path):
    with judging() as (_, url):
        pass
    with pytest.raises(EndpointError, match=r"judge\.baseUrl: .*does not serve.*no connection"):
        judge_factory(model(url), tmp_path)


@pytest.mark.parametrize(
    ("fields", "key", "words"),
    [
        ({"model": "other"}, None, r"judge\.model: .*has no model 'other'.*does not exist"),
        ({}, KEY, r"judge\.apiKeyEnv: a key is needed"),
        ({"apiKeyEnv": "JUDGE_KEY"}, "another", r"judge\.apiKeyEnv: .*Bearer \*\*\*"),
        ({"apiKeyEnv": "ABSENT"}, KEY, r"variable ABSENT is not set"),
    ],
)
def test_what_only_people_can_mend_is_named_at_once(tmp_path, fields, key, words):
    with judging(key=key) as (fake, url):
        with pytest.raises(EndpointError, match=words) as caught:
            judge_factory(model(url, **fields), tmp_path)
        assert caught.value.code is ErrorCode.ENDPOINT_REFUSED
        assert KEY not in str(caught.value)
        assert fake.probes == 0


def test_the_key_is_sent_and_kept_nowhere(tmp_path):
    with judging(key=KEY) as (fake, url):
        judge(url, tmp_path, apiKeyEnv="JUDGE_KEY").grade([sample()])
        judge_factory(model(url, apiKeyEnv="JUDGE_KEY"), tmp_path)
    assert (len(fake.prompts), fake.probes) == (1, 1)
    assert KEY not in (tmp_path / "judge.jsonl").read_text()


def test_the_key_goes_to_no_other_host(tmp_path):
    with judging() as (other, elsewhere):
        moved = (307, {"Location": f"{elsewhere}/chat/completions"}, b"")
        refused = pytest.raises(EndpointError, match=r"judge\.baseUrl: .*status 307")
        with judging(lambda _: moved) as (_, url), refused:
            judge(url, tmp_path, apiKeyEnv="JUDGE_KEY").grade([sample()])
        assert other.prompts == []


def test_no_more_requests_are_open_than_allowed(tmp_path):
    together = threading.Barrier(3)

    def answer(prompt):
        together.wait(60)
        return same_digits(prompt)

    samples = [sample(str(number), f"so {number}") for number in range(9)]
    with judging(answer) as (fake, url):
        assert all(found.correct for found in judge(url, tmp_path, concurrency=3).grade(samples))
        assert fake.most_open == 3


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A run whose responses are kept with what they are responses of."""
    monkeypatch.setenv("COLUMNS", "160")
    root = finished_run(tmp_path, "r", problems=6)
    for directory in (root / "evaluation").glob("*/held-out"):
        prints = dict.fromkeys(("baseModel", "tokenizer", "processor", "conversation"), DIGEST)
        known = {"checkpoint": directory.parent.name, "benchmark": "held-out", "data": "f"}
        origin = Origin.parse(prints | known | {"decoding": {}, "responses": 6})
        (directory / "origin.json").write_text(origin.model_dump_json())
    return tmp_path


def regraded(directory, *arguments):
    return CliRunner().invoke(main, ["regrade", "r", "--dir", str(directory), *arguments])


def test_another_matcher_grades_what_is_kept_and_says_what_changed(kept):
    where = kept / "r" / "evaluation" / "grpo" / "held-out"
    before = [sample.outcome for sample in read_samples(where)]
    right = before.count("correct")
    with judging(lambda _: "Answer: 1\nVerdict: no") as (fake, url):
        options = ["--matcher", "judge", "--judge-url", url, "--judge-model", MODEL]
        result = regraded(kept, *options)
        assert result.exit_code == 0, result.output
        asked = len(fake.prompts)
        assert regraded(kept, *options).exit_code == 0
        assert len(fake.prompts) == asked
    assert f"{right} of 6 change between right and wrong" in result.output
    assert "grpo on held-out, graded by judge" in result.output
    assert "asked 6 times, read 66 and wrote 24 tokens" in result.output
    found = json.loads((where / "results.json").read_text())
    assert (found["matcher"], found["accuracy"], found["judge"]["asked"]) == ("judge", 0.0, 6)
    (with_rule,) = found["agreements"]
    assert (with_rule["matcher"], with_rule["outcomes"]["wrong"]["correct"]) == ("rule", right)
    assert [sample.other_outcomes for sample in read_samples(where)] == [
        {"rule": outcome} for outcome in before
    ]
    assert "judge against rule" in (kept / "r" / "report.html").read_text()
    result = regraded(kept, "--matcher", "rule")
    assert f"{right} of 6 change between right and wrong" in result.output
    assert [sample.outcome for sample in read_samples(where)] == before
    found = json.loads((where / "results.json").read_text())
    assert "judge" not in found
    (with_judge,) = found["agreements"]
    assert with_judge["matcherVersion"].startswith(f"{MODEL}, prompt ")
    assert with_judge["outcomes"]["correct"] == {"wrong": right}


def test_regrading_that_cannot_be_is_refused_and_changes_nothing(kept):
    files = {path: path.read_bytes() for path in kept.rglob("*.json*")}
    result = regraded(kept, "--matcher", "judge")
    assert (result.exit_code, "the run names no judge" in result.output) == (2, True)
    result = regraded(kept, "--judge-url", "ftp://x", "--judge-model", "m")
    assert (result.exit_code, "baseUrl" in result.output) == (2, True)
    with judging(lambda _: PASSING["fault"]) as (_, url):
        result = regraded(kept, "--judge-url", url, "--judge-model", "other")
    assert (result.exit_code, "has no model 'other'" in result.output) == (2, True)
    assert {path: path.read_bytes() for path in kept.rglob("*.json*")} == files
