"""A chat template tried once, in a process of its own with bounds; what it writes is not judged.

A template is a program of whoever made the model. Jinja's sandbox keeps it from files and from
Python, but not from running for ever or taking all memory.
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

PROCESSOR_SECONDS = 2
"""What a prompt of some lines may take, at the most."""

MEMORY = 1 << 30
"""Bytes that it may take."""

WALL_SECONDS = 120
"""A template cannot sleep: this is for a machine that stands still."""


class TemplateError(ValueError):
    """A template that cannot be used; the message is a clause."""


@cache
def require_bounded(template: str, messages: str) -> None:
    """See that a template comes to its end, with or without a prompt.

    Args:
        template: it.
        messages: what it is given, as JSON.

    Raises:
        TemplateError: it takes too long, or too much memory.
    """
    asked = json.dumps({"template": template, "messages": json.loads(messages)})
    command = [sys.executable, "-P", "-m", __name__]
    try:
        ended = subprocess.run(  # noqa: S603 - our own interpreter
            command, input=asked.encode(), capture_output=True, timeout=WALL_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise TemplateError(f"takes more than {WALL_SECONDS} s for a short prompt") from error
    if ended.returncode:
        raise TemplateError(
            f"takes more than {PROCESSOR_SECONDS} s, or {MEMORY >> 20} MiB, for a short prompt"
        )


def main() -> int:
    """Write the prompt that the standard input asks for, within bounds."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    until = math.floor(time.process_time()) + PROCESSOR_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (until, until))
    asked: Mapping[str, Any] = json.load(sys.stdin)
    try:
        written = _environment().from_string(asked["template"])
        written.render(messages=asked["messages"], add_generation_prompt=True, tools=None)
    except MemoryError:
        return 1
    except Exception:  # noqa: BLE001, S110 - whatever is wrong with it, who loads it finds
        pass
    return 0


class _Generation(Extension):
    """The `{% generation %}` of `transformers`, which marks what an assistant says."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """What stands between it and its end."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as `transformers` sets it up."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    made.filters["tojson"] = json.dumps
    made.globals["raise_exception"] = _raise
    made.globals["strftime_now"] = lambda form: form
    return made


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    sys.exit(main())
