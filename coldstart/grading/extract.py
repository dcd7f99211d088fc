r"""Finds the answer in a response; it does not judge whether the answer is right.

The rules are those of the recipe: the last `\boxed{}` wins and its braces must balance. An unclosed
last box is no answer, even when an earlier one is closed. Every scan is linear in the response.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Method = Literal["boxed", "answer_tag", "answer_line", "answer_is", "choice_letter", "short_reply"]
Flag = Literal["unclosed_box", "empty_box", "unclosed_reasoning"]

# The unboxed patterns look only at the end of a response: an answer is stated there.
TAIL = 20_000
SHORT_REPLY = 80
MAX_JOINED = 20

_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_JOINT = re.compile(
    r"\}\s{0,4}\$?\s{0,4}(?:,|,?\s{0,4}\b(?:or|and)\b)\s{0,4}\$?\s{0,4}\Z", re.IGNORECASE
)
_SPECIAL = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>")
_ANSWER_LINE = re.compile(
    r"^[ \t>*#_]{0,8}(?:(?:final )?answer[*_]{0,2} ?:[*_]{0,2}|(?<=####))(.+)$",
    re.IGNORECASE | re.MULTILINE,
)
_ANSWER_IS = re.compile(
    r"(?:\banswer(?: is| would be| must be|:)|\u7b54\u6848(?:\u662f|\u4e3a|[:\uff1a]))"
    r"[ \t]{0,4}:?([^\n]{1,300})",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\.(?:\s|\*|\Z)|。")
_LATE_LETTER = re.compile(
    r"(?:\b(?:answer|option|choice)(?: is| would be|:)?|\bcorrect (?:option|choice|answer) is)"
    r"[ \t:*$]{0,6}(?:\\text\{|\\mathbf\{)?\(?([A-H])\)?\}?(?![\w'-])"
    r"(?! (?!because|since|as |which|and |but )[a-z])"
)
_LONE_LETTER = re.compile(r"^[\s*$]*\(?([A-H])[).]{0,2}[\s*$]*\Z")


@dataclass(frozen=True, slots=True)
class Extraction:
    r"""What a response states as its answer.

    `span` is None when there is no answer. `joined` holds all of several last boxes that stand side
    by side (`\boxed{1}` and `\boxed{2}`), written as one list.
    """

    span: str | None
    method: Method | None = None
    boxed: bool = False
    flag: Flag | None = None
    joined: str | None = None


def extract(text: str, *, boxed_only: bool = True, lettered: bool = False) -> Extraction:
    """The stated answer of `text`.

    With `boxed_only` (the reward) nothing outside a box counts. Without it (evaluation) the cascade
    is: answer tag, last box, "Answer:" line, "the answer is", a reply that is one short line.
    `lettered` says that the question has choices: a letter stated after the box then wins.
    """
    reasoning, answer_part = _after_reasoning(text)
    if answer_part is None:
        return Extraction(None, flag="unclosed_reasoning")
    if boxed_only:
        return _last_box(answer_part)
    visible = _SPECIAL.sub("", answer_part[-TAIL:])
    tagged = _last_tag(visible)
    if tagged is not None:
        inner = _last_box(tagged)
        return inner if inner.boxed else _stated(tagged, "answer_tag")
    box = _last_box(answer_part)
    late = _late_letter(visible) if lettered else None
    if late is not None and box.flag is None:
        return Extraction(late, "choice_letter", box.boxed)
    if box.boxed or box.flag is not None:
        return box
    return _unboxed(visible, short_reply_allowed=not (reasoning and not visible.strip()))


def _after_reasoning(text: str) -> tuple[bool, str | None]:
    """Whether there was a reasoning part, and what follows it (None: it never ended)."""
    end = text.rfind("</think>")
    if text.rfind("<think>") > end:
        return True, None
    return (True, text[end + len("</think>") :]) if end >= 0 else (False, text)


def _last_box(text: str) -> Extraction:
    start = text.rfind("\\boxed")
    opening = _BOX.match(text, start) if start >= 0 else None
    while start >= 0 and opening is None:
        start = text.rfind("\\boxed", 0, start)
        opening = _BOX.match(text, start) if start >= 0 else None
    if opening is None:
        return Extraction(None)
    end = _closing(text, opening.end())
    if end is None:
        return Extraction(None, flag="unclosed_box")
    span = text[opening.end() : end].strip(" \n\r")  # a form feed may be an eaten \f
    if not span:
        return Extraction(None, flag="empty_box")
    return Extraction(span, "boxed", True, joined=_joined(text, start, span))


def _closing(text: str, position: int) -> int | None:
    """Where the brace that is open at `position` closes; escaped braces do not count."""
    depth = 1
    for found in _BRACE.finditer(text, position):
        brace = found.group()
        if brace == "{":
            depth += 1
        elif brace == "}":
            depth -= 1
            if depth == 0:
                return found.start()
    return None


def _joined(text: str, start: int, last: str) -> str | None:
    """All of the boxes that end in the last one, with only "and", "or" or a comma between."""
    spans = [last]
    while len(spans) < MAX_JOINED:
        joint = _JOINT.search(text, max(0, start - 40), start)
        if joint is None:
            break
        # A joined answer is short, so that a bounded look back keeps the scan linear.
        previous = text.rfind("\\boxed", max(0, joint.start() - 1_000), joint.start())
        opening = _BOX.match(text, previous) if previous >= 0 else None
        if opening is None or _closing(text[: joint.start() + 1], opening.end()) != joint.start():
            break
        spans.insert(0, text[opening.end() : joint.start()].strip())
        start = previous
    return ", ".join(spans) if len(spans) > 1 else None


def _last_tag(text: str) -> str | None:
    start = text.rfind("<answer>")
    if start < 0:
        return None
    end = text.find("</answer>", start)
    return text[start + len("<answer>") : end].strip() if end >= 0 else None


def _late_letter(text: str) -> str | None:
    """A letter stated behind the last box, or in the last line of a response without one."""
    start = text.rfind("\\boxed")
    tail = text[start:] if start >= 0 else text
    stated = [found.group(1) for found in _LATE_LETTER.finditer(tail)]
    if stated:
        return stated[-1]
    if start >= 0:
        return None
    lines = tail.strip().splitlines()
    lone = _LONE_LETTER.match(lines[-1]) if lines else None
    return lone.group(1) if lone else None


def _unboxed(text: str, *, short_reply_allowed: bool) -> Extraction:
    lines = _ANSWER_LINE.findall(text)
    if lines:
        return _stated(lines[-1], "answer_line")
    sentences = _ANSWER_IS.findall(text)
    if sentences:
        return _stated(_SENTENCE_END.split(sentences[-1], maxsplit=1)[0], "answer_is")
    reply = text.strip()
    if short_reply_allowed and "\n" not in reply and len(reply) <= SHORT_REPLY:
        return _stated(reply, "short_reply")
    return Extraction(None)


def _stated(span: str, method: Method) -> Extraction:
    stripped = span.strip().strip("*_ ").strip()
    return Extraction(stripped, method) if stripped else Extraction(None)
