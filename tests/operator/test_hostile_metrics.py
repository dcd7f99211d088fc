"""Metrics endpoints that hang, flood and lie: progress is read, or nothing is, and at no cost."""

import asyncio
import gzip
import itertools
import os
import random
import socket
import threading
import time
from contextlib import ExitStack, contextmanager

import pytest
from apiserver.scripts import Behaviour, scripted
from operating import SFT_ONLY, holds, stage, world
from oracles import at_rest, violations
from strategies import EXAMPLES

from coldstart.children.pod import METRICS_PORT
from coldstart_operator import progress

HONEST = b"""\
# HELP coldstart_step Optimizer updates that are done.
# TYPE coldstart_step gauge
coldstart_step{run="r",stage="grpo"} 120
coldstart_max_steps{run="r",stage="grpo"} 496
coldstart_reward_total_mean{run="r",stage="grpo"} 0.75
"""

_numbers = itertools.count(1)


def address():
    """A loopback address that no other test listens on: the port is always the same."""
    return f"127.{1 + os.getpid() % 200}.{os.getpid() // 200 % 200}.{next(_numbers) % 250 + 1}"


@contextmanager
def endpoint(serve):
    """A server on the metrics port whose every connection is handed to a function."""
    place = address()
    listener = socket.create_server((place, METRICS_PORT))
    stop = threading.Event()
    begun = []

    def one(connection):
        begun.append(time.monotonic())
        with connection:
            try:
                connection.recv(65536)
                serve(connection, stop)
            except OSError:
                pass

    def accept():
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield place, begun
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def page(body, head=b"HTTP/1.1 200 OK"):
    """A complete answer."""
    size = b"Content-Length: %d" % len(body)

    def serve(connection, _):
        connection.sendall(head + b"\r\n" + size + b"\r\nConnection: close\r\n\r\n" + body)

    return serve


def hang(connection, stop):
    stop.wait(30)


def drip(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not stop.wait(0.05):
        connection.sendall(b"a")


def flood(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
    for _ in range(100):
        connection.sendall(b"coldstart_step 1\n" * 60_000)


def endless_header(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-A: ")
    while not stop.is_set():
        connection.sendall(b"a" * 65536)


def not_http(connection, stop):
    connection.sendall(bytes(range(256)) * 100)


def bomb(connection, stop):
    body = gzip.compress(b"coldstart_step 1\n" * 6_000_000)
    assert len(body) < progress.MAX_BYTES
    page(body, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip")(connection, stop)


def elsewhere(connection, stop):
    page(b"", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/secret")(connection, stop)


def endless_chunks(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not stop.is_set():
        connection.sendall(b"ffff\r\n" + b"#" * 65535 + b"\r\n")


def endless_continue(connection, stop):
    while not stop.is_set():
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


def many_headers(connection, stop):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    while not stop.is_set():
        connection.sendall(b"X-A: b\r\n" * 5000)


def raw(data):
    """An answer that is just this."""
    return lambda connection, _: connection.sendall(data)


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine may be slow to answer; what is meant to hang sets its own limit."""
    monkeypatch.setattr(progress, "TIMEOUT", 30.0)


def read(place):
    async def main():
        async with progress.session() as session:
            return await progress.read(session, place)

    return asyncio.run(main())


def test_an_honest_endpoint_is_read():
    with endpoint(page(HONEST)) as (place, _):
        told = read(place)
    found = progress.progress("grpo", told)
    assert (found.done, found.total, found.text, found.reward) == (120, 496, "120/496", 0.75)


HOSTILE = {
    "hangs": hang,
    "drips": drip,
    "floods": flood,
    "endless header": endless_header,
    "not HTTP": not_http,
    "redirects": elsewhere,
    "error": page(b"", b"HTTP/1.1 500 no"),
    "too long": page(b"coldstart_step 1\n" + b"#" * progress.MAX_BYTES),
    "chunks without end": endless_chunks,
    "continues without end": endless_continue,
    "headers without end": many_headers,
    "closes": raw(b""),
    "closes in the head": raw(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "closes in the body": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncoldstart_step 1"),
    "a length below zero": raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\ncoldstart_step 1"),
    "two lengths": raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "a chunk of no size": raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a version that is none": raw(b"HTTP/9 200 OK\r\n\r\n"),
    "a status that is none": raw(b"HTTP/1.1 -1 \xff\r\n\r\n"),
    "no content": raw(b"HTTP/1.1 204 No Content\r\n\r\n"),
}


@pytest.mark.fault(45)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_endpoint_tells_nothing_and_takes_no_time(name, monkeypatch):
    monkeypatch.setattr(progress, "TIMEOUT", 0.5)
    with endpoint(HOSTILE[name]) as (place, _):
        begun = time.monotonic()
        assert read(place) is None
        assert time.monotonic() - begun < progress.TIMEOUT + 20


def test_a_compressed_answer_is_not_unpacked():
    with endpoint(bomb) as (place, _):
        assert read(place) == {}


def test_nobody_there_tells_nothing():
    assert read(address()) is None


@pytest.mark.parametrize(
    "place",
    [
        "",
        "not an address",
        "localhost",
        "evil.example/?",
        "user@127.0.0.1",
        "127.1",
        "127.0.0.1/secret#",
        "127.0.0.1:1/",
        "::1]:1/[",
        "%",
        "0x7f.1",
        "127.0.0.1\r\nX: y",
    ],
)
def test_nothing_but_an_address_is_asked(place, monkeypatch):
    asked = []
    monkeypatch.setattr(progress, "_body", lambda _, url: asked.append(url))
    assert read(place) is None
    assert asked == []


def test_a_redirect_is_not_followed():
    with endpoint(page(HONEST)) as (target, begun):
        head = b"HTTP/1.1 302 Found\r\nLocation: http://%s:%d/metrics" % (
            target.encode(),
            METRICS_PORT,
        )
        with endpoint(page(b"", head)) as (place, _):
            assert read(place) is None
        assert begun == []


@pytest.mark.fault(45)
def test_no_bytes_of_an_answer_break_the_reading():
    random_ = random.Random(7)
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(HONEST), HONEST)
    answers = iter(range(1_000_000))

    def damaged(connection, _):
        next(answers)
        begin = random_.randrange(len(whole))
        put = bytes(random_.choices(range(256), k=random_.randrange(4)))
        connection.sendall(whole[:begin] + put + whole[begin + random_.randrange(8) :])

    with endpoint(damaged) as (place, _):
        for _ in range(max(60, EXAMPLES)):
            told = read(place) or {}
            assert set(told) <= {progress.DONE, progress.TOTAL, progress.REWARD}
    assert next(answers) >= 60


@pytest.mark.fault(45)
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("coldstart_step NaN", {}),
        ("coldstart_step +Inf\ncoldstart_step -inf", {}),
        ("coldstart_step", {}),
        ("coldstart_step {", {}),
        ("coldstart_step{a=", {}),
        ("coldstart_step 1e400", {}),
        ("coldstart_step 0x10", {}),
        ("coldstart_step 7 1712345678", {progress.DONE: 7.0}),
        ('coldstart_step{run="a b} 3",x="}"} 8', {progress.DONE: 8.0}),
        ("coldstart_step 1\ncoldstart_step 2", {progress.DONE: 1.0}),
        ("coldstart_steps 4\nother 5", {}),
        ("\x00\xff\ncoldstart_step 9", {progress.DONE: 9.0}),
        ("\n".join(f'coldstart_step{{a="{n}"}} {n}' for n in range(10_000)), {progress.DONE: 0.0}),
    ],
)
def test_of_what_is_told_only_finite_numbers_of_known_names_count(text, told):
    assert progress.numbers(text) == told


@pytest.mark.parametrize(
    ("told", "text", "reward"),
    [
        ({progress.DONE: 5}, "5", None),
        ({progress.DONE: 5, progress.TOTAL: 3}, "5", None),
        ({progress.DONE: 5, progress.TOTAL: 1e300}, "5", None),
        ({progress.DONE: 5, progress.TOTAL: 10, progress.REWARD: 1e300}, "5/10", None),
        ({progress.DONE: 5.7, progress.TOTAL: 10.2, progress.REWARD: -1}, "5/10", -1),
        ({progress.DONE: -5}, None, None),
        ({progress.DONE: 1e300}, None, None),
        ({progress.TOTAL: 5}, None, None),
        ({}, None, None),
    ],
)
def test_numbers_that_make_no_sense_are_left_out(told, text, reward):
    found = progress.progress("grpo", told)
    assert (found.text if found else None, found.reward if found else None) == (text, reward)


def run_says(run, text):
    return ((run.get("status") or {}).get("progress") or {}).get("text") == text


def test_the_progress_of_a_running_stage_is_in_the_status(tmp_path):
    with endpoint(page(HONEST)) as (place, begun):
        script = scripted({("sft", 1): Behaviour(running=None, address=place)})
        with world(tmp_path, script) as w, w.operator():
            w.apply(**SFT_ONLY)
            run = w.until(lambda run: run_says(run, "120/496"))
            assert run["status"]["progress"] == {
                "stage": "sft",
                "done": 120,
                "total": 496,
                "text": "120/496",
            }
            time.sleep(1.0)
            asked = len(begun)
            assert 2 <= asked <= 9  # every 0.2 s at most
            w.controllers.finish("r-sft-1")
            run = w.end()
            assert holds(run, "Succeeded")
            assert "progress" not in run["status"]


@pytest.mark.fault(45)
def test_hostile_endpoints_cost_their_runs_the_progress_and_nothing_else(tmp_path):
    hostile = {
        **{name: HOSTILE[name] for name in ("hangs", "drips", "floods", "not HTTP", "redirects")},
        "bomb": bomb,
        "not a number": page(b"coldstart_step NaN\ncoldstart_max_steps 1e308"),
        "series": page(b"".join(b'coldstart_step{a="%d"} 3\n' % n for n in range(9_000))),
        "lies": page(b"coldstart_step -5\ncoldstart_max_steps 1e308\ncoldstart_reward 1e400"),
    }
    with ExitStack() as stack:
        opened = [stack.enter_context(endpoint(serve)) for serve in hostile.values()]
        places = {f"h{number}": place for number, (place, _) in enumerate(opened)}

        def script(attempt):
            return Behaviour(running=None, address=places[attempt.run])

        w = stack.enter_context(world(tmp_path, script))
        stack.enter_context(w.operator(lookers=4))
        for name in places:
            w.apply(name, **SFT_ONLY)
        for name, (_, begun) in zip(places, opened, strict=True):
            w.until(lambda run: stage(run, "sft").get("state") == "Running", name)
            deadline = time.monotonic() + 30
            while not begun:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        w.until(lambda run: run_says(run, "3"), f"h{list(hostile).index('series')}")
        for name in places:
            w.controllers.finish(f"{name}-sft-1")
        for name in places:
            assert holds(w.end(name), "Succeeded")
        assert violations(w.server) == []
        assert at_rest(w.server) == []


def test_hanging_endpoints_of_many_runs_hold_up_nobody(tmp_path):
    with endpoint(hang) as (place, begun):
        slow = Behaviour(running=None, address=place)
        script = lambda attempt: slow if attempt.run.startswith("slow") else Behaviour()  # noqa: E731
        with world(tmp_path, script) as w, w.operator(workers=2, lookers=2):
            for number in range(6):
                w.apply(f"slow{number}", **SFT_ONLY)
            for number in range(6):
                w.until(lambda run: stage(run, "sft").get("state") == "Running", f"slow{number}")
            time.sleep(0.5)
            assert begun
            started = time.monotonic()
            w.apply("quick")
            assert holds(w.end("quick"), "Succeeded")
            assert time.monotonic() - started < 4
