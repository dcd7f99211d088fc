"""Judges kept responses by asking a model about each, once; how it is reached is `chat`'s business.

What was asked is found again by its content in `judge.jsonl`, beside the responses, so that a
killed run, or another grading of the same responses, does not ask again.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError

from coldstart import layout, tasks
from coldstart.chat import CallFailed, Client, Limits
from coldstart.evaluation import JudgeModel
from coldstart.files import append_json_line, digest_of, json_lines
from coldstart.grading import Grade, Outcome, extract
from coldstart.results import JudgeUse, Sample
from coldstart.schema import Contract, problems

LONGEST_RESPONSE: Final = 20_000
"""Characters of a response that the judge sees: its end, where the answer is."""

RETRIES: Final = 6
REPLY_TOKENS: Final = 512
MAX_REPLY: Final = 4_000
FIELD: Final = "spec.evaluation.judge"

_REMARKS = re.compile(r"(?:#[^\n]*\n)*")
_PLACE = re.compile(r"\{(question|options|gold|response)\}")
_VERDICT = re.compile(r"^[\s*#>-]*verdict[\s*]*:[\s*]*(yes|no)\b", re.IGNORECASE | re.MULTILINE)
_BARE = re.compile(r"\W*(yes|no)\W*\Z", re.IGNORECASE)
_ANSWER = re.compile(r"^[\s*#>-]*answer[ \t*]*:[ \t*]*(.+?)[ \t*]*$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Prompt:
    """The text that a response is put into."""

    template: str

    @classmethod
    def read(cls, path: Path | None = None) -> Prompt:
        """The prompt in a file, or Coldstart's own.

        Raises:
            ValueError: the file is not there, or lacks a place that must be filled in.
        """
        if path is None:
            text = (resources.files("coldstart.judging") / "prompt.txt").read_text("utf-8")
        elif path.is_file():
            text = path.read_text(encoding="utf-8")
        else:
            raise ValueError(f"spec.evaluation.judge.prompt: there is no file {path}")
        template = text[_REMARKS.match(text).end() :]  # type: ignore[union-attr]
        missing = {"gold", "response"} - set(_PLACE.findall(template))
        if missing:
            named = ", ".join(f"{{{name}}}" for name in sorted(missing))
            raise ValueError(f"spec.evaluation.judge.prompt: {path} has no place for {named}")
        return cls(template)

    def filled(self, sample: Sample) -> str:
        """The question about one response."""
        letters = (f"({chr(ord('A') + at)}) {choice}" for at, choice in enumerate(sample.choices))
        parts = {
            "question": sample.problem,
            "options": "\n".join(letters) or "none",
            "gold": sample.gold,
            "response": sample.response[-LONGEST_RESPONSE:],
        }
        # In one pass: what is filled in may hold braces of its own.
        return _PLACE.sub(lambda found: parts[found.group(1)], self.template)


class Reply(Contract):
    """What the model said, and what it cost."""

    text: str
    """Its words."""
    prompt_tokens: int = Field(default=0, ge=0)
    """Tokens that it read, as the endpoint counts them."""
    completion_tokens: int = Field(default=0, ge=0)
    """Tokens that it wrote."""


def client_of(model: JudgeModel, environment: Mapping[str, str] = os.environ) -> Client:
    """Who asks a judge: a request that is given up ends the judging.

    Raises:
        EndpointError: the key is not in the environment.
    """
    limits = Limits(model.concurrency, model.timeout_seconds, RETRIES, patience=1)
    return Client(model, limits, FIELD, environment)


class Judge:
    """The judge of the responses in one directory.

    Args:
        client: who asks the model.
        prompt: what is asked.
        directory: where the responses are, and the record of what was asked about them.

    Raises:
        ValueError: a line of the record is none.
    """

    def __init__(self, client: Client, prompt: Prompt, directory: Path) -> None:
        self.client = client
        self.prompt = prompt
        self.path = layout.judgements(directory)
        self._replies: dict[str, Reply] = {}
        for line in json_lines(self.path):
            key = str(line.pop("key", ""))
            try:
                self._replies[key] = Reply.parse(line)
            except ValidationError as error:
                raise ValueError(problems(error, f"{self.path}: ")[0]) from error

    @property
    def version(self) -> str:
        """The model, and which prompt."""
        digest = hashlib.sha256(self.prompt.template.encode()).hexdigest()
        return f"{self.client.endpoint.model}, prompt {digest[:12]}"

    def grade(self, samples: Sequence[Sample]) -> list[Grade]:
        """The grades of responses, in their order; those that are empty are not asked about.

        Raises:
            EndpointError: the endpoint does not serve; the answers until then are kept.
            OSError: the record cannot be written.
        """
        asked = {self._key(sample): sample for sample in samples if not _plain_outcome(sample)}
        left = {key: each for key, each in asked.items() if key not in self._replies}
        if left:
            tasks.run(self._ask(left))
        return [self._grade(sample) for sample in samples]

    def use(self, samples: Iterable[Sample]) -> JudgeUse:
        """What judging these responses has cost, whenever it was done."""
        keys = {self._key(sample) for sample in samples}
        replies = [self._replies[key] for key in keys if key in self._replies]
        return JudgeUse(
            asked=len(replies),
            unclear=sum(_verdict(reply.text) is None for reply in replies),
            prompt_tokens=sum(reply.prompt_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
        )

    def _key(self, sample: Sample) -> str:
        return digest_of(
            {"model": self.client.endpoint.model, "prompt": self.prompt.filled(sample)}
        )

    async def _ask(self, samples: Mapping[str, Sample]) -> None:
        async with self.client:
            # Twice as many as may be asked at once: each has its question ready when one may.
            await tasks.each(samples.items(), self._one, 2 * self.client.limits.concurrency)

    async def _one(self, item: tuple[str, Sample]) -> None:
        key, sample = item
        request = {
            "messages": [{"role": "user", "content": self.prompt.filled(sample)}],
            "temperature": 0,
            "max_tokens": REPLY_TOKENS,
        }
        try:
            answer = await self.client.ask(request, silent=True)
        except CallFailed as error:
            raise self.client.failure(error) from error
        reply = Reply(
            text=answer.text[-MAX_REPLY:],
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
        )
        append_json_line(self.path, {"key": key, **reply.document()})
        self._replies[key] = reply

    def _grade(self, sample: Sample) -> Grade:
        box = extract(sample.response)
        plain = _plain_outcome(sample)
        if plain is not None:
            return Grade(plain, box.span, box.method, box.boxed)
        text = self._replies[self._key(sample)].text
        verdict = _verdict(text)
        if verdict is None:
            detail = f"the judge said neither yes nor no: {' '.join(text.split())[:80]!r}"
            return Grade(Outcome.JUDGE_UNCLEAR, box.span, box.method, box.boxed, detail)
        stated = _ANSWER.search(text)
        span = stated.group(1) if stated else box.span
        outcome = Outcome.CORRECT if verdict else Outcome.WRONG
        return Grade(outcome, span, box.method, box.boxed)


def _plain_outcome(sample: Sample) -> Outcome | None:
    """What needs no judge: nobody credits an empty response, or one against an empty gold."""
    if not sample.gold.strip():
        return Outcome.GOLD_UNPARSEABLE
    if not sample.response.strip():
        return Outcome.TRUNCATED if sample.truncated else Outcome.NO_ANSWER
    return None


def _verdict(text: str) -> bool | None:
    """Yes or no; None where the judge says neither, or both."""
    stated = {found.casefold() for found in _VERDICT.findall(text)}
    bare = _BARE.match(text)
    if not stated and bare:
        stated = {bare.group(1).casefold()}
    return stated == {"yes"} if len(stated) == 1 else None
