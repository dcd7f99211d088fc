"""The client of chat endpoints: what it repeats, waits for, gives up and tells people."""

import asyncio
import logging
import os
import signal
import threading

import pytest
from fake_teacher import MODEL, completion, serving

from coldstart import tasks
from coldstart.chat import Answer, CallFailed, Client, EndpointError, Limits
from coldstart.chat import client as asking
from coldstart.endpoint import Endpoint
from coldstart.status import ErrorCode

FIELD = "spec.distill.teacher"
REQUEST = {"messages": [{"role": "user", "content": "1 + 1?"}], "max_tokens": 5, "seed": 0}


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch):
    monkeypatch.setattr(asking, "FIRST_WAIT", 0.01)


def ask(url, *, times=1, model=MODEL, key=None, probe=False, **limits):
    """The answers to so many requests, asked at once, or their failures; and the client."""
    limits = {"concurrency": 4, "timeout": 60.0, "retries": 2} | limits

    async def main():
        endpoint = Endpoint(base_url=url, model=model, api_key_env=key)
        async with Client(endpoint, Limits(**limits), FIELD) as client:
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
        async with Client(Endpoint(base_url=url, model=MODEL), limits, FIELD) as client:
            asking_client.append(client)
            return await client.ask(REQUEST)

    with serving(scripted((429, {"Retry-After": "40"}, b""))) as (_, url):
        assert asyncio.run(main(url)).text == "2"
    assert any(30 < seconds <= 40 for seconds in waited)


def test_an_endpoint_that_is_gone_ends_the_stage_instead_of_failing_every_question():
    with serving(lambda _: (502, {}, b"bad gateway")) as (_, url):
        answers, _client = ask(url, times=30, retries=0)
    gone = [error for error in answers if isinstance(error, EndpointError)]
    assert gone
    assert gone[0].code is ErrorCode.ENDPOINT_DOWN
    assert gone[0].code.retryable
    assert any("8 requests in a row" in str(error) for error in gone)


def test_the_probe_tells_what_to_change_and_never_the_key(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("WRONG", "sk-wrong-secret")
    with serving(scripted(), key="sk-right") as (teacher, url):
        with pytest.raises(EndpointError, match="apiKeyEnv: the key in WRONG is not") as refused:
            ask(url, key="WRONG", probe=True)
        assert "secret" not in str(refused.value)
        with pytest.raises(EndpointError, match="a key is needed"):
            ask(url, probe=True)
        with pytest.raises(EndpointError, match="variable ABSENT is not set"):
            ask(url, key="ABSENT", probe=True)
        assert teacher.asked == []
    assert "secret" not in caplog.text
    with (
        serving(scripted()) as (_, url),
        pytest.raises(EndpointError, match="has no model 'gpt'") as refused,
    ):
        ask(url, model="gpt", probe=True)
    assert refused.value.code is ErrorCode.ENDPOINT_REFUSED
    with pytest.raises(EndpointError, match=r"does not serve: no connection.*Connect") as down:
        ask("http://127.0.0.1:9/v1", probe=True)
    assert down.value.code is ErrorCode.ENDPOINT_DOWN


def test_a_probe_that_meets_a_web_page_says_so(monkeypatch):
    monkeypatch.setattr("fake_teacher.is_probe", lambda _: False)
    with (
        serving(lambda _: b"<html>login") as (_, url),
        pytest.raises(EndpointError, match="no chat completion: <html>login") as refused,
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


def test_the_environments_proxy_is_asked_unless_the_host_is_exempt(monkeypatch):
    with serving(scripted()) as (teacher, url):
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1"))
        [answer], _ = ask("http://teacher.invalid/v1", retries=0)
        assert answer.text == "2"
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        [error], _ = ask(url, retries=0)
        assert error.reason == "connection"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        [answer], _ = ask(url, retries=0)
    assert answer.text == "2"
    assert len(teacher.requests) == 2


def test_what_a_signal_raises_ends_the_waiting_at_once():
    class Told(BaseException):
        pass

    def told(_number, _frame):
        raise Told

    def answer(_):
        os.kill(os.getpid(), signal.SIGUSR1)
        release.wait(60)
        return completion("late")

    async def asked(url):
        limits = Limits(concurrency=1, timeout=60.0, retries=0)
        async with Client(Endpoint(base_url=url, model=MODEL), limits, FIELD) as client:
            await tasks.each([REQUEST], client.ask, 1)

    release = threading.Event()
    before = signal.signal(signal.SIGUSR1, told)
    try:
        with serving(answer) as (_, url), pytest.raises(Told):
            tasks.run(asked(url))
    finally:
        release.set()
        signal.signal(signal.SIGUSR1, before)


def test_of_many_items_few_are_in_hand_and_the_first_failure_is_told():
    drawn, most = [], []

    async def work(item):
        most.append(len(drawn) - item)
        await asyncio.sleep(0)
        if item == 7:
            raise OSError("disk full")

    def items():
        for number in range(100):
            drawn.append(number)
            yield number

    with pytest.raises(OSError, match="disk full"):
        tasks.run(tasks.each(items(), work, 3))
    assert max(most) <= 3
    assert len(drawn) < 20
