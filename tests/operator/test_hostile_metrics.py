"""Metrics endpoints that hang, flood and lie: progress is read, or nothing is, and at no cost."""

import asyncio
import gzip
import itertools
import os
import socket
import threading
import time
from contextlib import contextmanager

import pytest
from apiserver.scripts import Behaviour, scripted
from operating import SFT_ONLY, holds, stage, world

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
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_endpoint_tells_nothing_and_takes_no_time(name):
    with endpoint(HOSTILE[name]) as (place, _):
        begun = time.monotonic()
        assert read(place) is None
        assert time.monotonic() - begun < progress.TIMEOUT + 1.5


def test_a_compressed_answer_is_not_unpacked():
    with endpoint(bomb) as (place, _):
        assert read(place) == {}


def test_nobody_there_tells_nothing():
    assert read(address()) is None
    assert read("not an address") is None


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
