"""The worker process of a user's reward function: imports it, calls it, checks what it returns.

It imports neither torch nor anything else of the trainer.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_loaded: dict[str, Callable[..., Any] | str] = {}


@dataclass(frozen=True)
class Scored:
    """What became of a batch: scores, or why there are none."""

    scores: tuple[float | None, ...] = ()
    raised: str = ""
    """The last line of a traceback."""
    invalid: str = ""
    """What is wrong with the value that was returned."""


def prepare(name: str, workdir: str) -> None:
    """Import the function `module:function` once, when the worker starts."""
    # torchrun passes SIGTERM on to the stage's whole process group. The stage gives up first what
    # it waits for, in all processes alike: the worker ends when the stage does.
    os.setpgid(0, 0)
    # Last: a file there that is called as a library is would else be taken for it.
    sys.path.append(workdir)
    module, _, function = name.partition(":")
    if problem := _elsewhere(module, Path(workdir)):
        _loaded[name] = problem
        return
    try:
        found = getattr(importlib.import_module(module), function)
    except Exception as error:  # noqa: BLE001 - importing runs the user's code
        _loaded[name] = _last_line(error)
        return
    _loaded[name] = found if callable(found) else f"{function} is not callable"


def _elsewhere(module: str, workdir: Path) -> str:
    """Why a module is not one of the working directory; empty if it is. None of it is run."""
    place = workdir.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_suffix(".py"))
    file = next((one for one in files if one.is_file()), None)
    if file is None:
        return f"there is no {files[1].relative_to(workdir)}"
    if not file.resolve().is_relative_to(workdir.resolve()):
        return f"{file.relative_to(workdir)} is a link that leads out of it: copy the file"
    # Its packages have no say in it: they would have to be run to be asked.
    first = module.partition(".")[0]
    found = importlib.util.find_spec(first)
    places = [*(found.submodule_search_locations or ()), found.origin] if found else []
    ours = [one for one in places if one and Path(one).is_relative_to(workdir)]
    return "" if ours else f"a library is called {first}, too: call yours otherwise"


def import_error(name: str) -> str:
    """Why the function could not be imported; empty if it was."""
    found = _loaded[name]
    return found if isinstance(found, str) else ""


def score(name: str, count: int, arguments: Mapping[str, Any]) -> Scored:
    """Call the function for a batch of `count` completions."""
    function = _loaded[name]
    if isinstance(function, str):
        return Scored(raised=function)
    try:
        returned = function(**arguments)
        if inspect.isawaitable(returned):
            returned = asyncio.run(_awaited(returned))
    except Exception as error:  # noqa: BLE001 - the boundary of the user's code
        return Scored(raised=_last_line(error))
    return _checked(returned, count)


async def _awaited(value: Any) -> Any:
    return await value


def _checked(returned: Any, count: int) -> Scored:
    try:
        values = list(returned)
    except TypeError:
        kind = type(returned).__name__
        return Scored(invalid=f"returned {kind}, not a list of {count} numbers")
    if len(values) != count:
        return Scored(invalid=f"returned {len(values)} scores for {count} completions")
    scores: list[float | None] = []
    for place, value in enumerate(values):
        number = None if value is None else _number(value)
        if value is not None and (number is None or not math.isfinite(number)):
            return Scored(invalid=f"returned {value!r:.80} as score {place}, not a finite number")
        scores.append(number)
    return Scored(scores=tuple(scores))


def _number(value: Any) -> float | None:
    """A number as a float; a text that looks like one is a mistake, not a number."""
    if isinstance(value, (str, bytes)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _last_line(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{traceback.format_exception_only(error)[-1].strip()}{where}"
