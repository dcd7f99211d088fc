"""The patterns of cold-start data: what a teacher is asked, how a response is put together.

Every word that is sent or added stands in a file of `templates`, which are ours. Nothing here asks.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from coldstart.distill import PatternName, PatternShare

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\[{}\\]|[{}]")
_RESPONSE = "response.j2"


@dataclass(frozen=True)
class Pattern:
    """One pattern: its turns, each a question to the teacher, and what its replies become."""

    name: PatternName
    turns: tuple[str, ...]
    """The names of the turns' templates, in order."""
    digest: str
    """`sha256:…` of all its templates."""

    @property
    def joins_paths(self) -> bool:
        """Whether a response is made of a wrong and a right path, not of the replies of one."""
        return self.name == "reflection-cot"

    def prompt(self, turn: int, problem: str, images: int) -> str:
        """What the teacher is told in a turn, before the conversation's own additions."""
        return self._rendered(self.turns[turn], problem=problem, images=images)

    def response(self, replies: Sequence[str]) -> str:
        """The response that the replies of all turns make; of two paths: the wrong, the right."""
        texts = [reply.strip() for reply in replies]
        if self.joins_paths:
            return self._rendered(_RESPONSE, wrong=texts[0], right=texts[1])
        return self._rendered(_RESPONSE, replies=texts)

    def _rendered(self, template: str, **values: object) -> str:
        found = _environment().get_template(f"{self.name}/{template}")
        return found.render(**values).strip()


@cache
def pattern(name: PatternName) -> Pattern:
    """A pattern by its name."""
    folder = files("coldstart_trainer.distill").joinpath("templates", name)
    texts = {item.name: item.read_text("utf-8") for item in folder.iterdir()}
    digest = hashlib.sha256("\0".join(f"{key}\0{texts[key]}" for key in sorted(texts)).encode())
    turns = tuple(sorted(key for key in texts if key != _RESPONSE))
    return Pattern(name, turns, f"sha256:{digest.hexdigest()}")


def drawn(shares: Sequence[PatternShare], seed: int, question: str, sample: int) -> Pattern:
    """The pattern of one sample: always the same for the same seed and question."""
    if len(shares) == 1:
        return pattern(shares[0].name)
    generator = random.Random(f"{seed}/{sample}/{question}")  # noqa: S311 - no secret
    chosen = generator.choices(shares, [share.weight for share in shares])[0]
    return pattern(chosen.name)


def unboxed(text: str) -> str:
    r"""A text without its closed `\boxed{}`, whose contents stay: only the last answer counts."""
    made, position = [], 0
    while match := _BOX.search(text, position):
        end = _closing(text, match.end())
        if end is None:
            break
        made += [text[position : match.start()], unboxed(text[match.end() : end])]
        position = end + 1
    return "".join([*made, text[position:]])


def _closing(text: str, start: int) -> int | None:
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return brace.start()
    return None


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("coldstart_trainer.distill", "templates"),
        autoescape=False,  # noqa: S701 - texts for models, not pages
        undefined=StrictUndefined,
        auto_reload=False,
    )
    environment.filters["unboxed"] = unboxed
    return environment
