"""Coroutines over many items, of which few are in hand at once; what they do is not known here."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


async def each(items: Iterable[Item], work: Callable[[Item], Awaitable[None]], tasks: int) -> None:
    """Work on all items, drawn one by one by so many tasks.

    Raises:
        BaseExceptionGroup: what ended a task; the others are cancelled.
    """
    left = iter(items)

    async def worked() -> None:
        for item in left:
            await work(item)

    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(worked())


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine returns; of a group of failures the first.

    Its event loop has a thread of its own: what a signal raises ends the waiting here, where a loop
    would pass over it in a callback. Meanwhile what was loaded before is no matter for the garbage
    collector, which would look through it again and again, and keep the loop waiting.

    Raises:
        BaseException: what ended the coroutine, the first of its tasks that failed, or the waiting.
    """
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    with runner, ThreadPoolExecutor(1, "tasks") as thread:
        loop = runner.get_loop()
        task = loop.create_task(main)
        gc.freeze()
        try:
            return thread.submit(loop.run_until_complete, task).result()
        except BaseExceptionGroup as group:
            raise _first(group) from group
        finally:
            gc.unfreeze()
            loop.call_soon_threadsafe(task.cancel)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended a group of tasks: the first failure, not those that it brought about."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
