"""How a stage's processes hand responses to the first one, each when it has some.

No collective is waited in: engines neither work in step nor end together. What is sent goes through
the store in which the processes found each other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import astuple

import torch
from torch.distributed.distributed_c10d import PrefixStore, _get_default_store

from coldstart_trainer.generation import Completion, place
from coldstart_trainer.termination import TERMINATION, Terminated

PAUSE = 0.2
"""Seconds between two looks for what is not there yet."""


class Mail:
    """The responses of all processes on one occasion, whose name they all know."""

    def __init__(self, occasion: str) -> None:
        self._rank, world = place()
        self._senders = dict.fromkeys(range(1, world), 0)
        """Those that may still send, and how much came from each."""
        self._sent = 0
        self._store: PrefixStore | None = None
        if torch.distributed.is_initialized():
            # Torch has no public name for it, and a store of our own would need a port of its own.
            self._store = PrefixStore(f"coldstart/{occasion}", _get_default_store())

    def send(self, completions: list[Completion] | None) -> None:
        """Hand responses to the first process; None says that there will be no more."""
        assert self._store is not None
        content = None if completions is None else [astuple(each) for each in completions]
        self._store.set(f"{self._rank}/{self._sent}", json.dumps(content))
        self._sent += 1

    def received(self) -> Iterator[list[Completion]]:
        """What has come from others since; the first process asks."""
        for sender in list(self._senders):
            while sender in self._senders and self._there(f"{sender}/{self._senders[sender]}"):
                assert self._store is not None
                key = f"{sender}/{self._senders[sender]}"
                content = json.loads(self._store.get(key))
                self._store.delete_key(key)
                self._senders[sender] += 1
                if content is None:
                    del self._senders[sender]
                else:
                    yield [Completion(*values) for values in content]

    def rest(self) -> Iterator[list[Completion]]:
        """What is still to come from others, until each has said that it is done."""
        while self._senders:
            yield from self.received()
            if self._senders:
                _pause()
        if self._store is not None:
            self._store.set("end", "")

    def wait(self) -> None:
        """Wait until the first process has everything.

        Raises:
            Terminated: told to end.
        """
        while not self._there("end"):
            _pause()

    def _there(self, key: str) -> bool:
        return self._store is not None and bool(self._store.check([key]))


def _pause() -> None:
    if TERMINATION.requested:
        raise Terminated
    time.sleep(PAUSE)
