"""How far a running stage is, read from its pod's metrics endpoint; nothing there is trusted.

A pod may hang, send without end, or lie: the read has a deadline and a size, and of what it
sends only a few named, finite numbers are looked at.
"""

from __future__ import annotations

import asyncio
import math
from ipaddress import ip_address
from typing import Literal

import aiohttp

from coldstart.children.pod import METRICS_PORT
from coldstart.metrics import PREFIX
from coldstart.status import RunProgress

TIMEOUT = 2.0
"""Seconds for the whole answer."""

MAX_BYTES = 256 * 1024
"""The longest answer that is read."""

MAX_STEPS = 10**12
"""A greater number of steps is nonsense."""

MAX_REWARD = 1e12

DONE, TOTAL, REWARD = (f"{PREFIX}{name}" for name in ("step", "max_steps", "reward_total_mean"))

_CHUNK = 16 * 1024

StageName = Literal["distill", "sft", "grpo", "evaluation"]


def session() -> aiohttp.ClientSession:
    """What pods are asked with: directly, no cookies, and nothing unpacked.

    A few packed bytes may hold gigabytes.
    """
    return aiohttp.ClientSession(
        trust_env=False, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    )


async def read(session: aiohttp.ClientSession, address: str) -> dict[str, float] | None:
    """The named numbers that a pod tells; None if it tells nothing that can be used.

    Args:
        session: what requests are made with.
        address: the pod's IP; nothing else is asked, whatever a pod's status says.
    """
    try:
        host = str(ip_address(address.partition("%")[0]))
        host = f"[{host}]" if ":" in host else host
        async with asyncio.timeout(TIMEOUT):
            data = await _body(session, f"http://{host}:{METRICS_PORT}/metrics")
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
    return numbers(data.decode(errors="replace")) if data is not None else None


async def _body(session: aiohttp.ClientSession, url: str) -> bytes | None:
    """The answer, if it is one and not too long; never more than that is held."""
    async with session.get(url, allow_redirects=False) as response:
        if response.status != 200:  # noqa: PLR2004
            return None
        data = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            data += chunk
            if len(data) > MAX_BYTES:
                return None
        return bytes(data)


def numbers(text: str) -> dict[str, float]:
    """The finite values of the series that progress is made of; the first of each name."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name not in (DONE, TOTAL, REWARD) or name in found:
            continue
        value = _value(line)
        if value is not None:
            found[name] = value
    return found


def _value(line: str) -> float | None:
    """The value of a sample: the first word after its name and labels."""
    rest = line.rpartition("}")[2] if "{" in line else line.partition(" ")[2]
    words = rest.split()
    try:
        value = float(words[0]) if words else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def progress(stage: StageName, told: dict[str, float]) -> RunProgress | None:
    """What a status says of it; None where it does not say how far it is."""
    done, total, reward = told.get(DONE), told.get(TOTAL, 0.0), told.get(REWARD)
    if done is None or not 0 <= done <= MAX_STEPS:
        return None
    total = total if done <= total <= MAX_STEPS else 0.0
    if stage != "grpo" or reward is None or abs(reward) > MAX_REWARD:
        reward = None
    text = f"{int(done)}/{int(total)}" if total else f"{int(done)}"
    return RunProgress(stage=stage, done=int(done), total=int(total), text=text, reward=reward)
