"""`python -m coldstart_operator`: the operator as a process."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from coldstart_operator import handlers, logs, progress
from coldstart_operator.cluster import LogIn, NoCluster, connect, credentials
from coldstart_operator.controller import Controller
from coldstart_operator.settings import Settings
from coldstart_operator.web import CannotListen, Pages, Ports
from coldstart_operator.webhook import Webhook

MISTAKE = 2
"""The exit code of what its user has to mend."""

LOST_AGAIN = 5.0
"""Seconds from the loss of the watch streams until all begins anew."""

DEPTH = 12_000
"""Python's limit of recursion. The API server takes objects that are nested 10,000 deep, and one
that cannot be read is in every LIST: it would keep the operator from working for anybody. Not
more: with 50,000 a hostile body overflows a thread's stack of 2 MiB."""

NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
PORT = click.IntRange(0, 65_535)
SECONDS = click.FloatRange(min=0, min_open=True)
LEVELS = click.Choice(["debug", "info", "warning", "error"], case_sensitive=False)

logger = logging.getLogger("coldstart_operator")


def _namespaces(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of namespaces; another text would be watched, and nothing ever be seen there."""
    for name in names:
        if not NAMESPACE.fullmatch(name):
            raise click.BadParameter(f"{name!r} is not the name of a namespace")
    return names


@click.command()
@click.option(
    "--namespace",
    "namespaces",
    multiple=True,
    callback=_namespaces,
    help="Work in this namespace only; may be repeated.",
)
@click.option(
    "--image",
    default=Settings.image,
    show_default=True,
    help="The trainer's image for runs that name none.",
)
@click.option(
    "--host", default=Settings.host, show_default=True, help="The address to serve pages on."
)
@click.option(
    "--health-port",
    default=Settings.health_port,
    show_default=True,
    type=PORT,
    help="/healthz, /readyz.",
)
@click.option(
    "--metrics-port",
    default=Settings.metrics_port,
    show_default=True,
    type=PORT,
    help="/metrics.",
)
@click.option(
    "--webhook-port", type=PORT, help="Serve the admission webhook; needs --webhook-cert."
)
@click.option(
    "--webhook-cert",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The directory of its tls.crt and tls.key, which are read again when they change.",
)
@click.option(
    "--workers",
    default=Settings.workers,
    show_default=True,
    type=click.IntRange(min=1),
    help="Runs worked on at a time.",
)
@click.option(
    "--resync",
    default=Settings.resync,
    show_default=True,
    type=SECONDS,
    help="Seconds between two full LISTs.",
)
@click.option(
    "--progress",
    default=Settings.progress,
    show_default=True,
    type=click.FloatRange(min=15),
    help="Seconds between two looks at a stage's metrics.",
)
@click.option(
    "--unhealthy-after",
    "unhealthy",
    default=Settings.unhealthy,
    show_default=True,
    type=SECONDS,
    help="Seconds without the API server or the watch streams until /healthz is red.",
)
@click.option("--log-level", default="info", show_default=True, type=LEVELS)
def main(
    log_level: str, webhook_port: int | None, webhook_cert: Path | None, **options: object
) -> None:
    """Take every ReasoningRun of the cluster through its stages."""
    if (webhook_port is None) != (webhook_cert is None):
        raise click.UsageError("--webhook-port and --webhook-cert belong together: give both")
    sys.setrecursionlimit(DEPTH)
    logs.configure(log_level)
    settings = Settings(
        webhook_port=webhook_port or 0,
        webhook_cert=webhook_cert,
        **options,  # type: ignore[arg-type]
    )
    pause: float | None = 0.0
    ports, ends = Ports(settings.host), threading.Event()
    try:
        while pause is not None:
            pause = asyncio.run(_process(settings, ports, pause, ends))
    except NoCluster as error:
        sys.exit(f"no cluster: {error}")
    except CannotListen as error:
        click.echo(f"{error}: choose another with the option of that port, or --host", err=True)
        sys.exit(MISTAKE)
    except Exception:  # the process ends here, and its last words are a line like the others
        logger.critical("ends by a mistake; what it knew is in the cluster", exc_info=True)
        sys.exit(1)
    finally:
        ports.close()


async def _process(
    settings: Settings, ports: Ports, pause: float, ends: threading.Event
) -> float | None:
    """`operate`, told to stop by SIGTERM and SIGINT from the beginning to the end.

    The first process of a container has no default for them: it would not end before SIGKILL. They
    set `ends` too, which outlives the event loop: one may come while that is taken down.
    """
    told, loop = asyncio.Event(), asyncio.get_running_loop()

    def hear(*_: object) -> None:
        ends.set()
        if not loop.is_closed():
            loop.call_soon_threadsafe(told.set)

    def listen() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, hear)

    listen()
    if ends.is_set():
        return None
    with suppress(TimeoutError):
        await asyncio.wait_for(told.wait(), pause)
        return None
    return await operate(settings, ports, told=told, listen=listen)


async def operate(
    settings: Settings,
    ports: Ports,
    log_in: LogIn = credentials,
    *,
    told: asyncio.Event,
    listen: Callable[[], None] = lambda: None,
) -> float | None:
    """Work until told to stop.

    Args:
        settings: what the process was told.
        ports: where it is asked; they stay open.
        log_in: where the API server is and how it knows us; asked again when that expires.
        told: set when it shall stop.
        listen: has signals set it; called once kopf has taken them for itself.

    Returns:
        After how many seconds to begin anew, because there is more to watch than at the start, or
        the watch streams were lost; None where it was told to stop.

    Raises:
        NoCluster: there are no credentials.
        CannotListen: a port is taken.
    """
    cluster = await connect(log_in)
    session = progress.session()
    stop, begun = asyncio.Event(), asyncio.Event()
    relay = asyncio.ensure_future(_relay(told, stop))
    controller = Controller(cluster, session, settings, more=stop.set)
    pages = Pages(controller.health.problems, begun.is_set)
    webhook = Webhook(settings.webhook_cert) if settings.webhook_cert else None
    lost: handlers.WatchLost | None = None

    async def end() -> None:
        await controller.stop()
        await pages.stop()
        if webhook:
            await webhook.stop()

    try:
        found = await pages.start(ports, settings.health_port, settings.metrics_port)
        logger.info("serves /healthz on port %d and /metrics on port %d", *found)
        if webhook:
            port = await webhook.start(ports, settings.webhook_port)
            logger.info("serves /validate on port %d", port)
        if await _started(controller, stop):
            begun.set()
            await handlers.watch(controller, settings, log_in, end, stop, listen)
    except handlers.WatchLost as error:
        lost = error
    finally:
        await end()
        relay.cancel()
        await session.close()
        await cluster.close()
    return None if told.is_set() else _pause(controller, lost)


def _pause(controller: Controller, lost: handlers.WatchLost | None) -> float | None:
    """After how many seconds to begin anew, which is said; None where nothing asks for that."""
    if controller.outgrown:
        logger.info("begins anew: the cluster serves more kinds of objects than before")
        return 0.0
    if lost:
        logger.warning("begins anew in %.0f s: %s", LOST_AGAIN, lost)
        return LOST_AGAIN
    return None


async def _relay(told: asyncio.Event, stop: asyncio.Event) -> None:
    await told.wait()
    stop.set()


async def _started(controller: Controller, stop: asyncio.Event) -> bool:
    """Start the controller, which waits for the API server, unless told to stop; whether it has."""
    starts, stops = asyncio.ensure_future(controller.start()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((starts, stops), return_when=asyncio.FIRST_COMPLETED)
        if starts.done():
            starts.result()
        return starts.done()
    finally:
        for task in (starts, stops):
            task.cancel()
        await asyncio.gather(starts, stops, return_exceptions=True)


if __name__ == "__main__":
    main()
