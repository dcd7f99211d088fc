"""The samples of questions: asked where they are not there yet, put together, judged by the grader.

What becomes a row is decided here; what rows are is in `rows`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

from coldstart.chat import Answer, CallFailed, Client
from coldstart.distill import Distill
from coldstart.files import digest_of
from coldstart.grading import Outcome
from coldstart.spec import Conversation
from coldstart_trainer.conversation import Messages
from coldstart_trainer.distill.journal import Journal, Place
from coldstart_trainer.distill.patterns import Pattern, drawn
from coldstart_trainer.distill.questions import Question, sendable
from coldstart_trainer.distill.verdicts import Verdict, Verdicts

PATHS = 4
"""Paths of one `reflection-cot` sample at most: until there are a wrong one and a right one."""

NO_PAIR, FILTERED, FAILED = "no_pair", "filtered", "failed"
"""Verdicts of a sample's own: no wrong and right path; cut by the endpoint's filter; a request was
given up."""


@dataclass(frozen=True)
class Sample:
    """One sample of a question; its text is in the journal."""

    question: int
    number: int
    pattern: Pattern
    verdict: str
    tokens: int = 0
    """Of the response, by the tokenizer of the model that will learn it."""
    places: tuple[Place, ...] = ()
    """The replies that the response is made of."""


@dataclass
class Cost:
    """What the answers cost in tokens, those of earlier attempts included."""

    prompt: int = 0
    completion: int = 0
    answers: int = 0


@dataclass
class Sampler:
    """Takes the samples of questions, in one event loop."""

    spec: Distill
    conversation: Conversation
    client: Client
    journal: Journal
    verdicts: Verdicts
    executor: Executor
    """Scales images."""
    cost: Cost = field(default_factory=Cost)
    failures: Counter[str] = field(default_factory=Counter)
    """Requests that were given up, by reason."""

    async def samples(self, index: int, question: Question) -> list[Sample]:
        """The samples of a question, as many as `keep` needs.

        Raises:
            EndpointError: the endpoint is gone, or refuses.
            OSError: the storage is full.
        """
        numbers = range(self.spec.samples)
        urls = _Urls(question, self.conversation.max_pixels)
        if self.spec.keep != "first":
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._sample(index, question, number, urls))
                    for number in numbers
                ]
            return [task.result() for task in tasks]
        taken = []
        for number in numbers:
            taken.append(await self._sample(index, question, number, urls))
            if usable(taken[-1], self.spec):
                break
        return taken

    async def _sample(self, index: int, question: Question, number: int, urls: _Urls) -> Sample:
        pattern = drawn(self.spec.patterns, self.spec.seed, question.id, number)
        taker = _Taker(self, question, number, pattern, urls)
        try:
            verdict, tokens, places = await (
                taker.joined() if pattern.joins_paths else taker.chained()
            )
        except CallFailed as error:
            self.failures[error.reason] += 1
            return Sample(index, number, pattern, FAILED)
        return Sample(index, number, pattern, verdict, tokens, places)


_Judged = tuple[str, int, tuple[Place, ...]]


@dataclass
class _Taker:
    """Takes one sample."""

    sampler: Sampler
    question: Question
    number: int
    pattern: Pattern
    urls: _Urls

    async def chained(self) -> _Judged:
        """One path: the replies to all turns, one after another."""
        places: list[Place] = []
        replies: list[str] = []
        messages = self._opening()
        for turn in range(len(self.pattern.turns)):
            if turn:
                text = self.pattern.prompt(turn, self.question.problem, len(self.question.pictures))
                messages += [
                    {"role": "assistant", "content": replies[-1]},
                    {"role": "user", "content": text},
                ]
            answer, place = await self._reply(messages, turn)
            places.append(place)
            replies.append(answer.text)
            if cut := _cut(answer):
                return cut, 0, tuple(places)
        verdict, tokens = await self._judged(self.pattern.response(replies))
        return verdict, tokens, tuple(places)

    async def joined(self) -> _Judged:
        """A wrong and a right path; for an ablation, a wrong one and any other."""
        wrong: tuple[str, Place] | None = None
        right: tuple[str, Place] | None = None
        ablation = self.sampler.spec.keep_wrong
        for path in range(PATHS):
            answer, place = await self._reply(self._opening(), path)
            if _cut(answer):
                continue
            verdict, _ = await self._judged(answer.text)
            if verdict == Outcome.WRONG and wrong is None:
                wrong = (answer.text, place)
            elif verdict == Outcome.CORRECT or (ablation and verdict == Outcome.WRONG):
                right = right or (answer.text, place)
            if wrong and right:
                response = self.pattern.response([wrong[0], right[0]])
                verdict, tokens = await self._judged(response)
                return verdict, tokens, (wrong[1], right[1])
        return NO_PAIR, 0, ()

    async def _judged(self, response: str) -> Verdict:
        return await self.sampler.verdicts.of(self.question.case(response))

    def _opening(self) -> Messages:
        text = self.pattern.prompt(0, self.question.problem, len(self.question.pictures))
        return self.question.opening(text, self.sampler.conversation)

    async def _reply(self, messages: Messages, draw: int) -> tuple[Answer, Place]:
        """The answer to these messages: from the journal, else from the teacher."""
        spec, journal, cost = self.sampler.spec, self.sampler.journal, self.sampler.cost
        request = settings(spec, self.sampler.conversation) | {
            "seed": _seed(spec.seed, self.question.id, self.number, draw),
            "messages": messages,
        }
        key = digest_of({"model": spec.teacher.identity, **request})
        place = journal.place(key)
        if place:
            answer = journal.answer(place)
        else:
            sent = request | {"messages": sendable(messages, await self.urls.made(self.sampler))}
            answer = await self.sampler.client.ask(sent)
            place = journal.append(key, answer)
        cost.answers += 1
        cost.prompt += answer.prompt_tokens
        cost.completion += answer.completion_tokens
        return answer, place


class _Urls:
    """The data URLs of a question's images, made once, and only if something is asked."""

    def __init__(self, question: Question, max_pixels: int) -> None:
        self._question, self._max_pixels = question, max_pixels
        self._made: asyncio.Future[dict[str, str]] | None = None

    async def made(self, sampler: Sampler) -> dict[str, str]:
        if not self._question.pictures:
            return {}
        if self._made is None:
            loop = asyncio.get_running_loop()
            self._made = loop.run_in_executor(sampler.executor, self._make)
        return await asyncio.shield(self._made)

    def _make(self) -> dict[str, str]:
        return {item.digest: item.url(self._max_pixels) for item in self._question.pictures}


def settings(spec: Distill, conversation: Conversation) -> dict[str, Any]:
    """How the teacher samples, as requests say it."""
    return {
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "max_tokens": spec.max_completion_tokens or conversation.max_completion_tokens,
    }


def usable(sample: Sample, spec: Distill) -> bool:
    """Whether a sample may become a row."""
    kept = (Outcome.CORRECT, Outcome.WRONG) if spec.keep_wrong else (Outcome.CORRECT,)
    return sample.verdict in kept


def chosen(samples: Iterable[Sample], spec: Distill) -> Iterator[Sample]:
    """Those of a question's samples that become rows."""
    good = [sample for sample in samples if usable(sample, spec)]
    if spec.keep == "shortest" and good:
        good = [min(good, key=lambda sample: (sample.tokens, sample.number))]
    yield from good[:1] if spec.keep == "first" else good


def _cut(answer: Answer) -> str:
    """The verdict on an answer that the endpoint did not let end; empty for the others."""
    return {"length": Outcome.TRUNCATED.value, "content_filter": FILTERED}.get(answer.finish, "")


def _seed(seed: int, question: str, sample: int, draw: int) -> int:
    text = f"{seed}/{sample}/{draw}/{question}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4]) >> 1
