"""The parts of the distill stage, without a model: client, journal, patterns, pictures."""

import asyncio
import base64
import errno
import io
import json
import logging
import os
import threading
from collections import Counter

import pytest
from fake_teacher import MODEL, completion, serving, told
from PIL import Image
from tiny import png

from coldstart.distill import PatternShare, Teacher
from coldstart.spec import Conversation
from coldstart.status import ErrorCode
from coldstart_trainer.distill import client as asking
from coldstart_trainer.distill.client import Answer, CallFailed, Client, Limits
from coldstart_trainer.distill.journal import Journal
from coldstart_trainer.distill.patterns import drawn, pattern, unboxed
from coldstart_trainer.distill.questions import Picture, Question, sendable
from coldstart_trainer.errors import StageFailure

FIELD = "spec.distill.teacher"
REQUEST = {"messages": [{"role": "user", "content": "1 + 1?"}], "max_tokens": 5, "seed": 0}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)


def ask(url, *, times=1, model=MODEL, key=None, probe=False, **limits):
    """The answers to so many requests, asked at once, or their failures; and the client."""
    limits = {"concurrency": 4, "timeout": 60.0, "retries": 2} | limits

    async def main():
        teacher = Teacher(base_url=url, model=model, api_key_env=key)
        async with Client(teacher, Limits(**limits), FIELD) as client:
            if probe:
                return await client.probe(), client
            requests = (client.ask(REQUEST) for _ in range(times))
            return await asyncio.gather(*requests, return_exceptions=True), client

    return asyncio.run(main())


def scripted(*answers):
    """Answers in this order, then right ones."""
    left = iter(answers)
    return lambda _: next(left, completion("2"))


BUSY = (429, {"Retry-After": "0"}, b"slow down")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (BUSY, "rate_limited"),
        ((500, {}, b"oops"), "server_error"),
        ((503, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, b""), "server_error"),
        ((408, {}, b""), "timeout"),
        (b'{"choices": [{"mess', "unreadable"),
        (b"[]", "unreadable"),
        (b'{"choices": []}', "unreadable"),
    ],
)
def test_what_may_pass_is_repeated_counted_and_given_up_in_the_end(fault, reason):
    with serving(scripted(fault, fault)) as (teacher, url):
        [answer], client = ask(url)
        assert answer == Answer("2", "stop", 7, 3)
        assert client.counts == {reason: 2, "ok": 1}
        assert len(teacher.requests) == 3
    with serving(lambda _: fault) as (_, url):
        [error], client = ask(url)
    assert isinstance(error, CallFailed)
    assert error.reason == reason
    assert client.counts == {reason: 3}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((400, {}, b'{"error": {"message": "too many tokens"}}'), "refused"),
        ((302, {"Location": "http://other/"}, b""), "refused"),
        (completion(""), "empty"),
        (completion(None), "empty"),
    ],
)
def test_what_cannot_pass_is_asked_once_and_named(fault, reason):
    with serving(lambda _: fault) as (_, url):
        [error], client = ask(url)
    assert error.reason == reason
    assert client.counts == {reason: 1}
    assert reason != "refused" or "status" in str(error)


def test_a_time_out_is_repeated():
    gone = threading.Event()

    def slow(_):
        gone.wait(60)
        return completion("late")

    try:
        with serving(slow) as (_, url):
            [error], client = ask(url, timeout=0.2, retries=1)
            gone.set()
    finally:
        gone.set()
    assert error.reason == "timeout"
    assert client.counts == {"timeout": 2}


def test_all_wait_as_long_as_one_was_told_to(monkeypatch):
    waited = []
    sleep = asyncio.sleep

    async def noted(seconds):
        waited.append(seconds)
        await sleep(0)
        if seconds > 30:
            asking_client[0]._paused_until = 0.0

    asking_client = []
    monkeypatch.setattr(asking.asyncio, "sleep", noted)

    async def main(url):
        limits = Limits(concurrency=1, timeout=60.0, retries=2)
        async with Client(Teacher(base_url=url, model=MODEL), limits, FIELD) as client:
            asking_client.append(client)
            return await client.ask(REQUEST)

    with serving(scripted((429, {"Retry-After": "40"}, b""))) as (_, url):
        assert asyncio.run(main(url)).text == "2"
    assert any(30 < seconds <= 40 for seconds in waited)


def test_an_endpoint_that_is_gone_ends_the_stage_instead_of_failing_every_question():
    with serving(lambda _: (502, {}, b"bad gateway")) as (_, url):
        answers, _client = ask(url, times=30, retries=0)
    gone = [error for error in answers if isinstance(error, StageFailure)]
    assert gone
    assert gone[0].code is ErrorCode.ENDPOINT_DOWN
    assert gone[0].code.retryable
    assert any("8 requests in a row" in str(error) for error in gone)


def test_the_probe_tells_what_to_change_and_never_the_key(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("WRONG", "sk-wrong-secret")
    with serving(scripted(), key="sk-right") as (teacher, url):
        with pytest.raises(StageFailure, match="apiKeyEnv: the key in WRONG is not") as refused:
            ask(url, key="WRONG", probe=True)
        assert "secret" not in str(refused.value)
        with pytest.raises(StageFailure, match="a key is needed"):
            ask(url, probe=True)
        with pytest.raises(StageFailure, match="variable ABSENT is not set"):
            ask(url, key="ABSENT", probe=True)
        assert teacher.asked == []
    assert "secret" not in caplog.text
    with (
        serving(scripted()) as (_, url),
        pytest.raises(StageFailure, match="has no model 'gpt'") as refused,
    ):
        ask(url, model="gpt", probe=True)
    assert refused.value.code is ErrorCode.ENDPOINT_REFUSED
    with pytest.raises(StageFailure, match="Connect") as down:
        ask("http://127.0.0.1:9/v1", probe=True)
    assert down.value.code is ErrorCode.ENDPOINT_DOWN


def test_a_probe_that_meets_a_web_page_says_so(monkeypatch):
    monkeypatch.setattr("fake_teacher.is_probe", lambda _: False)
    with (
        serving(lambda _: b"<html>login") as (_, url),
        pytest.raises(StageFailure, match="no chat completion: <html>login") as refused,
    ):
        ask(url, probe=True)
    assert refused.value.code is ErrorCode.ENDPOINT_REFUSED


def test_as_many_requests_are_open_as_may_be_and_no_more():
    together = threading.Barrier(8)

    def answer(_):
        together.wait(60)  # breaks unless eight are open at once
        return completion("2")

    with serving(answer) as (teacher, url):
        answers, _ = ask(url, times=32, concurrency=8)
    assert [answer.text for answer in answers] == ["2"] * 32
    assert teacher.most_open == 8


# The journal


def test_a_journal_passes_over_a_torn_line_and_goes_on_behind_it(tmp_path):
    path = tmp_path / "answers.jsonl"
    answers = {f"k{n}": Answer(f"é{n}\n", "stop", n, 2) for n in range(3)}
    with Journal(path) as journal:
        for key, answer in answers.items():
            journal.append(key, answer)
    torn = path.read_bytes()[:-5]
    path.write_bytes(torn)
    with Journal(path) as journal:
        assert len(journal) == 2
        assert journal.place("k2") is None
        place = journal.append("k2", answers["k2"])
        assert journal.answer(place) == answers["k2"]
    with Journal(path) as journal:
        for key, answer in answers.items():
            assert journal.answer(journal.place(key)) == answer


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    write = os.pwrite

    def half(file, data, offset):
        if len(data) < 60:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2], offset)

    with Journal(path) as journal:
        journal.append("a", Answer("1", "stop", 1, 1))
        before = path.read_bytes()
        monkeypatch.setattr(os, "pwrite", half)
        with pytest.raises(OSError, match="No space"):
            journal.append("b", Answer("2", "stop", 1, 1))
        monkeypatch.undo()
        assert path.read_bytes() == before
        journal.append("b", Answer("2", "stop", 1, 1))
    with Journal(path) as journal:
        assert journal.answer(journal.place("b")).text == "2"


# Patterns and questions


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (r"so \boxed{5}.", "so 5."),
        (r"\boxed{\frac{1}{2}} and \boxed{\text{B}}", r"\frac{1}{2} and \text{B}"),
        (r"\boxed{a \boxed{b}}", "a b"),
        (r"an open \boxed{5", r"an open \boxed{5"),
        (r"\boxed{\{1\}}", r"\{1\}"),
    ],
)
def test_only_closed_boxes_are_opened(text, plain):
    assert unboxed(text) == plain


def test_each_pattern_asks_for_a_box_and_answers_with_the_last_reply():
    for name in ("distilled-cot", "caption-cot", "self-critic-cot"):
        found = pattern(name)
        prompts = [found.prompt(turn, "How many?", 1) for turn in range(len(found.turns))]
        assert "How many?" in prompts[0]
        assert r"\boxed{}" in prompts[-1]
        replies = [f"reply {turn} \\boxed{{{turn}}}" for turn in range(len(prompts))]
        response = found.response(replies)
        assert response.count(r"\boxed") == 1
        assert response.endswith(replies[-1])
        assert all(f"reply {turn}" in response for turn in range(len(prompts)))
    joined = pattern("reflection-cot").response([r"It is \boxed{4}.", r"It is \boxed{5}."])
    assert joined.startswith("It is 4.")
    assert "re-evaluate" in joined
    assert joined.endswith(r"It is \boxed{5}.")
    digests = {pattern(share).digest for share in ("distilled-cot", "caption-cot")}
    assert len(digests) == 2


def test_every_template_says_that_it_is_ours():
    from importlib.resources import files

    folder = files("coldstart_trainer.distill").joinpath("templates")
    texts = [item.read_text() for part in folder.iterdir() for item in part.iterdir()]
    assert len(texts) == 11
    assert all(text.startswith("{# A prompt of Coldstart, not of the paper") for text in texts)


def test_patterns_are_drawn_by_weight_and_the_same_again():
    shares = [
        PatternShare(name="caption-cot", weight=3),
        PatternShare(name="distilled-cot", weight=1),
    ]
    names = [drawn(shares, 7, f"q{n}", n % 4).name for n in range(2000)]
    assert names == [drawn(shares, 7, f"q{n}", n % 4).name for n in range(2000)]
    assert Counter(names)["caption-cot"] == pytest.approx(1500, abs=100)


def test_pictures_are_scaled_down_to_the_limit_and_else_sent_as_they_are():
    small = png(28, 28)
    assert base64.b64decode(Picture(small).url(784).partition(",")[2]) == small
    url = Picture(png(200, 100)).url(5000)
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert image.size == (100, 50)
    bitmap = io.BytesIO()
    Image.new("RGB", (4, 4)).save(bitmap, format="BMP")
    assert Picture(bitmap.getvalue()).url(784).startswith("data:image/png;base64,")


def test_images_stand_where_the_problem_has_them():
    pictures = (Picture(png(28, 28, 1)), Picture(png(28, 28, 2)))
    asked = Question("q", "A <image> or <image>?", "A", (), pictures)
    text = pattern("distilled-cot").prompt(0, asked.problem, 2)
    messages = asked.opening(text, Conversation())
    urls = {picture.digest: picture.url(784) for picture in pictures}
    sent = sendable(messages, urls)[1]["content"]
    kinds = [part["type"] for part in sent]
    assert kinds == ["text", "image_url", "text", "image_url", "text"]
    assert [sent[at]["image_url"]["url"] for at in (1, 3)] == list(urls.values())
    assert all(url not in json.dumps(messages) for url in urls.values())
    assert told({"messages": sendable(messages, urls)})[1] == 2
