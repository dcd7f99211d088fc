"""`python -m coldstart_operator`: the operator as a process."""

from __future__ import annotations

import asyncio
import logging
import sys

import click

from coldstart_operator import handlers, logs, progress
from coldstart_operator.cluster import LogIn, NoCluster, connect, credentials
from coldstart_operator.controller import Controller
from coldstart_operator.settings import Settings
from coldstart_operator.web import Pages

logger = logging.getLogger("coldstart_operator")


@click.command()
@click.option(
    "--namespace", "namespaces", multiple=True, help="Work in this namespace only; may be repeated."
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
@click.option("--health-port", default=Settings.health_port, show_default=True, help="/healthz.")
@click.option("--metrics-port", default=Settings.metrics_port, show_default=True, help="/metrics.")
@click.option(
    "--workers", default=Settings.workers, show_default=True, help="Runs worked on at a time."
)
@click.option(
    "--resync",
    default=Settings.resync,
    show_default=True,
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
    help="Seconds without the API server or the watch streams until /healthz is red.",
)
@click.option("--log-level", default="info", show_default=True)
def main(log_level: str, **options: object) -> None:
    """Take every ReasoningRun of the cluster through its stages."""
    logs.configure(log_level)
    settings = Settings(**options)  # type: ignore[arg-type]
    try:
        while asyncio.run(operate(settings)):
            logger.info("begins anew: the cluster serves more kinds of objects than before")
    except NoCluster as error:
        sys.exit(f"no cluster: {error}")


async def operate(
    settings: Settings, log_in: LogIn = credentials, stop: asyncio.Event | None = None
) -> bool:
    """Work until SIGTERM or SIGINT, or until `stop` is set.

    Args:
        settings: what the process was told.
        log_in: where the API server is and how it knows us; asked again when that expires.
        stop: another way to end, for those who do not run it in the main thread.

    Returns:
        Whether to begin anew, because there is more to watch than at the start.

    Raises:
        NoCluster: there are no credentials.
        OSError: a port is taken.
    """
    cluster = await connect(log_in)
    session = progress.session()
    stop = stop or asyncio.Event()
    controller = Controller(cluster, session, settings, more=stop.set)
    pages = Pages(controller.health.problems)

    async def end() -> None:
        await controller.stop()
        await pages.stop()
        # kopf 1.45 leaves a task that waits for it, and then waits 5 s for that task.
        stop.set()

    try:
        ports = await pages.start(settings.host, settings.health_port, settings.metrics_port)
        logger.info("serves /healthz on port %d and /metrics on port %d", *ports)
        await controller.start()
        await handlers.watch(controller, settings, log_in, end, stop)
    finally:
        await end()
        await session.close()
        await cluster.close()
    return controller.outgrown


if __name__ == "__main__":
    main()
