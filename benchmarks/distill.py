"""How full distillation keeps its concurrency: answers per second against the ideal rate.

The endpoint is a process of its own that answers each request after a fixed time, so the ideal is
`in flight / seconds`. Everything of the stage takes part: prompts, requests, journal, grading,
progress lines. On a busy machine the endpoint answers late: then the share of the time in which
places were taken, and the processor time of an answer, say more than the rate. `--json` prints a
last line with the numbers alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import datasets

from coldstart.chat import Client, Limits
from coldstart.dataset import Dataset
from coldstart.distill import Distill, Teacher
from coldstart.endpoint import Endpoint
from coldstart.grading import Grader
from coldstart.spec import Conversation
from coldstart.stage import DatasetEntry
from coldstart_trainer.data import Rows
from coldstart_trainer.distill.journal import Journal
from coldstart_trainer.distill.sampling import Sampler
from coldstart_trainer.distill.stage import THREADS, Asking
from coldstart_trainer.distill.verdicts import Verdicts
from coldstart_trainer.progress import ProgressLog

REASONING = "First I look at both numbers. Then I add them, digit by digit. " * 20
"""A response of some 250 tokens, as teachers give them."""


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one answer")
    parser.add_argument("--rounds", type=int, default=100, help="answers of each place in flight")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measured(options.in_flight, options.seconds, options.in_flight * options.rounds)
    print(
        f"{found['questions']} questions, {options.in_flight} in flight, {options.seconds} s each: "
        f"{found['rate']:.0f}/s of {found['ideal']:.0f}/s, {found['share']:.1%} of the ideal rate; "
        f"places taken {found['taken']:.1%} of the time; "
        f"{found['cpu_ms']:.2f} ms of processor time each"
    )
    if options.json:
        print(json.dumps(found))


def measured(in_flight: int, seconds: float, questions: int) -> dict[str, float]:
    """Rate, ideal rate, their ratio, and the stage's processor time of one answer."""
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, seconds), daemon=True
    )
    server.start()
    try:
        with tempfile.TemporaryDirectory() as directory:
            url = f"http://127.0.0.1:{ours.recv()}/v1"
            took, used, places = _asked(Path(directory), url, in_flight, questions)
    finally:
        server.kill()
        server.join()
    ideal = in_flight / seconds
    rate = questions / took
    return {
        "in_flight": in_flight,
        "questions": questions,
        "seconds": took,
        "rate": rate,
        "ideal": ideal,
        "share": rate / ideal,
        "taken": places / in_flight / took,
        "cpu_ms": used / questions * 1000,
    }


class Watched(Client):
    """A client that adds up the seconds of every open request."""

    taken = 0.0
    _open, _since = 0, 0.0

    def _opened(self, count: int) -> None:
        now = time.perf_counter()
        self.taken += self._open * (now - self._since)
        self._open, self._since = count, now

    open = property(lambda self: self._open, _opened)


def _asked(directory: Path, url: str, in_flight: int, questions: int) -> tuple[float, float, float]:
    """Wall and processor seconds of asking everything once, and those of all open requests."""
    spec = Distill(
        dataset=Dataset(name="sums"),
        teacher=Teacher(base_url=url, model="m"),
        samples=1,
        concurrency=in_flight,
    )
    rows = [
        {"id": str(n), "problem": f"What is {n} + 1?", "images": [], "answer": str(n + 1)}
        for n in range(questions)
    ]
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("id", "problem", "answer")}
        | {"images": datasets.List(datasets.Image())}
    )
    entry = DatasetEntry(name="sums", fingerprint="none", rows=questions)
    source = Rows(datasets.Dataset.from_list(rows, features=features), entry)
    with (
        Journal(directory / "answers.jsonl") as journal,
        Grader() as grader,
        ThreadPoolExecutor(THREADS) as executor,
    ):
        client = Watched(
            Endpoint(base_url=url, model="m"), Limits(in_flight, 60.0, 0), "spec.distill.teacher"
        )
        sampler = Sampler(
            spec=spec,
            conversation=Conversation(),
            client=client,
            journal=journal,
            verdicts=Verdicts(grader, _counts, Conversation().max_completion_tokens, executor),
            executor=executor,
        )
        began, used = time.perf_counter(), time.process_time()
        samples = Asking(
            sampler, source, ProgressLog(directory / "metrics.jsonl", 1), lambda: None
        ).samples()
        took, used = time.perf_counter() - began, time.process_time() - used
    assert [sample.verdict for sample in samples] == ["correct"] * questions
    return took, used, client.taken


def _counts(texts: list[str]) -> list[int]:
    """Words stand for tokens: a tokenizer needs the same time whatever asks the teacher."""
    return [len(text.split()) for text in texts]


def _serve(told: Connection, seconds: float) -> None:
    """Answer every request with the sum that it asks for, so long after it came."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Served(seconds), "127.0.0.1", 0, backlog=1024)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


class _Served(asyncio.Protocol):
    """One connection, on which one request is open at a time; no tasks, so that it costs little."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
        if end and len(body) >= int(length):
            self.received = b""
            loop = asyncio.get_running_loop()
            loop.call_later(self.seconds, self.transport.write, _answer(body))


def _answer(body: bytes) -> bytes:
    number = body.rpartition(b"What is ")[2].partition(b" +")[0]
    total = int(number) + 1 if number.isdigit() else 0
    content = f"{REASONING}\\boxed{{{total}}}"
    choice = {"message": {"content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 20, "completion_tokens": 250}
    answer = json.dumps({"choices": [choice], "usage": usage}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer


if __name__ == "__main__":
    main()
