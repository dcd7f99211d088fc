"""A stage's exporter under clients that mean no good: it goes on answering, and logs none of it."""

import contextlib
import socket
import struct
import threading
import time

import pytest
from hostile_inputs import mutated
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scraping import fetch

from coldstart_trainer import exporter as serving
from coldstart_trainer.exporter import CLIENTS, REQUEST_BYTES, Exporter
from coldstart_trainer.meter import Meter

LABELS = ("a-run", "sft", "a-model")

REQUESTS = [
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain;version=0.0.4;q=0.5\r\n\r\n",
    b"GET /metrics?name[]=a HTTP/1.0\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nAccept-Encoding: gzip\r\nConnection: keep-alive\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nContent-Length: 4\r\nContent-Type: a/b; c=d\r\n\r\nbody",
    b"GET /healthz HTTP/1.1\r\nExpect: 100-continue\r\nX: a\r\n folded\r\n\r\n",
    b"GET /metrics\r\n",
    b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
]


@pytest.fixture
def exporter():
    meter = Meter()
    meter.put({"loss": 2.0})
    meter.publish()
    made = Exporter(meter, LABELS, 0)
    yield made
    made.close()


@contextlib.contextmanager
def silent(capfd, caplog):
    """Nothing that happens here is seen in the stage's log."""
    before = threading.active_count()
    yield
    end = time.monotonic() + 30
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before
    said = capfd.readouterr()
    assert (said.out, said.err, caplog.text) == ("", "", "")


def answers(exporter):
    """Whether it does for others what it is there for."""
    assert fetch(exporter.port, "/healthz") == (200, "ok\n")
    assert "coldstart_loss" in fetch(exporter.port)[1]


def connected(exporter):
    return socket.create_connection(("127.0.0.1", exporter.port), timeout=20)


def sent(exporter, data, *, rudely=False):
    """What it answers to these bytes, after which nothing more comes."""
    with connected(exporter) as client, contextlib.suppress(OSError):
        client.sendall(data)
        if rudely:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return b""
        client.shutdown(socket.SHUT_WR)
        found = b""
        while piece := client.recv(1 << 16):
            found += piece
        return found
    return b""


def test_no_bytes_of_a_request_are_seen_or_stop_it(exporter, capfd, caplog):
    @settings(
        max_examples=300,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.randoms(use_true_random=False), st.sampled_from(["text", "bytes"]), st.booleans())
    def feed(chance, form, rudely):
        found = sent(exporter, mutated(chance, REQUESTS, form), rudely=rudely)
        assert b"Traceback" not in found
        assert b"500 Internal" not in found

    with silent(capfd, caplog):
        feed()
        answers(exporter)


HUGE = {
    "line": b"GET /" + b"a" * (1 << 22),
    "header": b"GET /metrics HTTP/1.1\r\nX: " + b"a" * (1 << 22) + b"\r\n\r\n",
    "headers": b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * (1 << 18) + b"\r\n",
    "body": b"POST /metrics HTTP/1.1\r\nContent-Length: 4194304\r\n\r\n" + b"a" * (1 << 22),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_huge_request_is_not_read(exporter, capfd, caplog, monkeypatch, name):
    read = []
    whole = serving._Beginning.readinto
    monkeypatch.setattr(
        serving._Beginning,
        "readinto",
        lambda beginning, buffer: read.append(whole(beginning, buffer)) or read[-1],
    )
    with silent(capfd, caplog):
        sent(exporter, HUGE[name])
        answers(exporter)
    assert sum(read) <= 4 * REQUEST_BYTES


@pytest.mark.parametrize("beginning", [b"", b"GET /met", REQUESTS[0][:40], REQUESTS[3][:-4]])
def test_many_that_stay_hold_few_threads_and_keep_nobody_out(
    exporter, capfd, caplog, monkeypatch, beginning
):
    monkeypatch.setattr(serving, "CLIENT_SECONDS", 1.0)
    before = threading.active_count()
    with silent(capfd, caplog), contextlib.ExitStack() as open_ones:
        for _ in range(5 * CLIENTS):
            open_ones.enter_context(connected(exporter)).sendall(beginning)
            assert threading.active_count() <= before + CLIENTS
        answers(exporter)
        end = time.monotonic() + 20
        while threading.active_count() > before and time.monotonic() < end:
            time.sleep(0.01)
        assert threading.active_count() == before  # although nobody has left


def test_one_that_sends_a_byte_now_and_then_has_no_more_time_than_others(
    exporter, capfd, caplog, monkeypatch
):
    monkeypatch.setattr(serving, "CLIENT_SECONDS", 1.0)
    with silent(capfd, caplog), connected(exporter) as client:
        client.settimeout(0.1)
        began = time.monotonic()
        client.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 20:
                client.sendall(b"a")
                with contextlib.suppress(TimeoutError):
                    if not client.recv(1):
                        break
        assert time.monotonic() - began < 10
        answers(exporter)


def test_one_that_does_not_read_its_page_is_cut_off(capfd, caplog, monkeypatch):
    monkeypatch.setattr(serving, "CLIENT_SECONDS", 1.0)
    meter = Meter()
    meter.publish()
    made = Exporter(meter, ("a" * (32 << 20), "sft", "m"), 0)
    meter.put({"loss": 2.0})
    meter.publish()
    try:
        with silent(capfd, caplog), connected(made) as client:
            client.sendall(REQUESTS[0])
            time.sleep(0.5)
            assert fetch(made.port, "/healthz") == (200, "ok\n")
            end = time.monotonic() + 20
            while any("process_request" in t.name for t in threading.enumerate()):
                assert time.monotonic() < end
                time.sleep(0.01)
    finally:
        made.close()


def test_a_mistake_of_ours_is_told(exporter, capfd, monkeypatch):
    monkeypatch.setattr(Exporter, "healthy", property(lambda _: 1 / 0))
    sent(exporter, REQUESTS[2])
    end = time.monotonic() + 20
    told = ""
    while "ZeroDivisionError" not in told:
        assert time.monotonic() < end
        told += capfd.readouterr().err
