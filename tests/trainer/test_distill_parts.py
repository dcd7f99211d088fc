"""The parts of the distill stage, without a model: journal, patterns, pictures, verdicts."""

import asyncio
import base64
import errno
import io
import json
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import datasets
import pytest
from fake_teacher import MODEL, completion, serving, told
from PIL import Image
from tiny import png

from coldstart.chat import Answer, Client, Limits
from coldstart.distill import Distill, PatternShare
from coldstart.endpoint import Endpoint
from coldstart.grading import Grader, case
from coldstart.spec import Conversation
from coldstart.stage import DatasetEntry
from coldstart_trainer.data import Rows
from coldstart_trainer.distill.journal import Journal
from coldstart_trainer.distill.patterns import drawn, pattern, unboxed
from coldstart_trainer.distill.questions import Picture, Question, sendable
from coldstart_trainer.distill.sampling import Sampler
from coldstart_trainer.distill.stage import Asking
from coldstart_trainer.distill.verdicts import Verdicts
from coldstart_trainer.progress import ProgressLog

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


# Verdicts, and what is asked while they are given


def test_responses_that_come_together_are_judged_together():
    batches = []

    def count(texts):
        batches.append(len(texts))
        return [len(text) for text in texts]

    async def judged(verdicts):
        responses = (r"\boxed{1}", r"\boxed{2}", r"\boxed{3}", "so " * 99 + r"\boxed{1}")
        asked = [asyncio.create_task(verdicts.of(case(text, "1"))) for text in responses]
        await asyncio.sleep(0)
        given_up = asked.pop(1)
        given_up.cancel()
        return await asyncio.gather(*asked)

    with Grader() as grader, ThreadPoolExecutor(2) as executor:
        found = asyncio.run(judged(Verdicts(grader, count, longest=100, executor=executor)))
    assert found == [("correct", 9), ("wrong", 9), ("too_long", 306)]
    assert batches == [4]


def test_a_grader_that_fails_ends_whoever_waits_for_it():
    def count(texts):
        raise ValueError("no such tokenizer")

    async def judged(verdicts):
        cases = [case(r"\boxed{1}", "1")] * 3
        return await asyncio.gather(*map(verdicts.of, cases), return_exceptions=True)

    with Grader() as grader, ThreadPoolExecutor(2) as executor:
        found = asyncio.run(judged(Verdicts(grader, count, longest=100, executor=executor)))
    assert [str(error) for error in found] == ["no such tokenizer"] * 3


def test_places_are_filled_while_answers_are_judged(tmp_path):
    """With two places, no verdict is given until four questions were asked."""
    four = threading.Event()

    def answer(_):
        if len(teacher.asked) >= 4:
            four.set()
        return completion(r"\boxed{1}")

    def count(texts):
        assert four.wait(60)
        return [1 for _ in texts]

    rows = [{"id": str(n), "problem": f"{n}?", "images": [], "answer": "1"} for n in range(8)]
    entry = DatasetEntry(name="sums", fingerprint="none", rows=len(rows))
    source = Rows(datasets.Dataset.from_list(rows), entry)
    with (
        serving(answer) as (teacher, url),
        Journal(tmp_path / "answers.jsonl") as journal,
        Grader() as grader,
        ThreadPoolExecutor(2) as executor,
    ):
        section = {"dataset": {"name": "sums"}, "teacher": {"baseUrl": url, "model": MODEL}}
        spec = Distill.parse(section | {"samples": 1, "concurrency": 2})
        sampler = Sampler(
            spec=spec,
            conversation=Conversation(),
            client=Client(Endpoint(base_url=url, model=MODEL), Limits(2, 60.0, 0), "teacher"),
            journal=journal,
            verdicts=Verdicts(grader, count, longest=100, executor=executor),
            executor=executor,
        )
        found = Asking(
            sampler, source, ProgressLog(tmp_path / "metrics.jsonl", 1), lambda: None
        ).samples()
    assert [sample.verdict for sample in found] == ["correct"] * 8
    assert teacher.most_open <= 2
