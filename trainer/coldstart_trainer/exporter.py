"""`/metrics` and `/healthz` of a stage over HTTP; it shows the meter's numbers, and makes none.

Whoever scrapes is answered from the meter's latest snapshot by a thread of the server's own: no
lock is shared with the stage, and nothing of torch is touched.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from coldstart.files import digest_of
from coldstart.metrics import COMMON_LABELS, METRICS, PREFIX, SECONDS_BUCKETS, series, split
from coldstart.metrics import Metric as Row
from coldstart.stage import METRICS_PORT_ENV, StageOrder
from coldstart_trainer.meter import Distribution, Meter, Snapshot

CLIENT_SECONDS = 10.0
"""How long one client may keep its thread waiting."""

log = logging.getLogger(__name__)


class Exporter:
    """Serves a stage's numbers until it is closed."""

    def __init__(self, meter: Meter, labels: tuple[str, ...], port: int) -> None:
        """Listen on every address of the machine; port 0 takes any free one.

        Raises:
            OSError: the port cannot be had.
        """
        self._stage = threading.current_thread()
        self._ended = False
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(meter, labels))
        self._metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)
        self._server = _listening(port)
        self._server.set_app(self._answer)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="exporter", daemon=True).start()

    def end(self) -> None:
        """The stage has ended: `/healthz` says so for as long as the process goes on."""
        self._ended = True

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def healthy(self) -> bool:
        """Whether the stage is still at work.

        A long rollout reports nothing for many minutes, so silence is no illness.
        """
        return not self._ended and self._stage.is_alive()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return self._metrics(environ, start)
        status, text = "404 Not Found", "/metrics or /healthz\n"
        if path == "/healthz":
            healthy = self.healthy
            status = "200 OK" if healthy else "503 Service Unavailable"
            text = "ok\n" if healthy else "the stage has ended\n"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode()]


@contextlib.contextmanager
def exposed(order: StageOrder, meter: Meter, rank: int) -> Iterator[Exporter | None]:
    """Serve the numbers of an attempt on the port that the environment names, if it names one.

    A port that cannot be had costs the numbers, not the training. After the attempt the process
    goes on answering, that it has ended.
    """
    digest = digest_of(order.spec.document()).removeprefix("sha256:")[:12]
    meter.put(
        {
            series("info", digest, str(order.attempt)): 1.0,
            "restarts_total": float(order.attempt - 1),
        }
    )
    meter.publish()
    labels = (order.run.name, order.stage.value, order.spec.model.name)
    exporter = _started(meter, labels) if rank == 0 else None
    try:
        yield exporter
    finally:
        if exporter:
            exporter.end()


def _started(meter: Meter, labels: tuple[str, ...]) -> Exporter | None:
    text = os.environ.get(METRICS_PORT_ENV, "")
    if not text:
        return None
    try:
        exporter = Exporter(meter, labels, int(text))
    except (OSError, ValueError, OverflowError) as error:
        log.warning(
            "%s: port %s cannot be had (%s), so nobody can scrape this attempt; it goes on, and "
            "metrics.jsonl has the same numbers. End what listens there, or name another port",
            METRICS_PORT_ENV,
            text,
            error,
        )
        return None
    log.info("serves /metrics and /healthz on port %d", exporter.port)
    return exporter


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        TCPServer.server_bind(self)
        # HTTPServer would look up the machine's name, and wait for DNS.
        self.server_name, self.server_port = "", self.server_address[1]
        self.setup_environ()


class _DualServer(_Server):
    """For IPv6 and IPv4: a pod's address may be of either kind."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_SECONDS
    # A page leaves in one piece: of a process that ends between two header lines, a client would
    # read an answer of status 200 without a body, and take it for a page without numbers.
    wbufsize = 1 << 20

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log no scrapes."""

    def address_string(self) -> str:
        """The address as it is: a look-up of its name would wait for DNS."""
        return str(self.client_address[0])


def _listening(port: int) -> _Server:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # compiled in, but switched off
            return _DualServer(("::", port), _Handler)
    return _Server(("", port), _Handler)


class _Collector:
    """The table's metrics with the values of a snapshot, as prometheus_client wants them."""

    def __init__(self, meter: Meter, labels: tuple[str, ...]) -> None:
        self._meter, self._labels = meter, labels

    def collect(self) -> Iterator[Metric]:
        """A family for each metric that has a value."""
        found = _by_name(self._meter.snapshot)
        for row in METRICS:
            if row.name in found:
                yield self._family(row, found[row.name])

    def _family(self, row: Row, samples: Mapping[tuple[str, ...], Any]) -> Metric:
        text = f"{row.help} Unit: {row.unit}."
        arguments = PREFIX + row.name, text
        names = [*COMMON_LABELS, *row.labels]
        if row.kind == "histogram":
            histogram = HistogramMetricFamily(*arguments, labels=names)
            for labels, seen in samples.items():
                histogram.add_metric([*self._labels, *labels], _buckets(seen), seen.total)
            return histogram
        kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
        family = kind(*arguments, labels=names)
        for labels, value in samples.items():
            family.add_metric([*self._labels, *labels], value)
        return family


def _by_name(snapshot: Snapshot) -> dict[str, dict[tuple[str, ...], Any]]:
    found: dict[str, dict[tuple[str, ...], Any]] = {}
    for key, value in (*snapshot.values.items(), *snapshot.histograms.items()):
        name, labels = split(key)
        found.setdefault(name, {})[labels] = value
    return found


def _buckets(seen: Distribution) -> list[tuple[str, float]]:
    """Prometheus' buckets hold what the smaller ones hold, too."""
    bounds = [*(str(bound) for bound in SECONDS_BUCKETS), "+Inf"]
    below = 0
    found = []
    for bound, count in zip(bounds, seen.counts, strict=True):
        below += count
        found.append((bound, float(below)))
    return found
