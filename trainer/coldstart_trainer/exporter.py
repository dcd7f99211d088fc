"""`/metrics` and `/healthz` of a stage over HTTP; it shows the meter's numbers, and makes none.

Whoever scrapes is answered from the meter's latest snapshot by a thread of the server's own: no
lock is shared with the stage, and nothing of torch is touched. Every pod of a cluster can reach the
port, so of what a client says only the path is read, and none gets more than its share of threads,
memory, time or the log.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
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
"""How long one client may keep its thread."""

CLIENTS = 8
"""How many have a thread at once: for one more the oldest is cut off, so that a scrape gets in."""

REQUEST_BYTES = 16 << 10
"""How much of a request is read."""

Page = tuple[HTTPStatus, str, bytes]
"""Status, content type and content."""

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
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Collector(meter, labels))
        self._server = _listening(port, self._page)
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

    def _page(self, path: str) -> Page:
        if path == "/metrics":
            return HTTPStatus.OK, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry)
        status, text = HTTPStatus.NOT_FOUND, "/metrics or /healthz\n"
        if path == "/healthz":
            healthy = self.healthy
            status = HTTPStatus.OK if healthy else HTTPStatus.SERVICE_UNAVAILABLE
            text = "ok\n" if healthy else "the stage has ended\n"
        return status, "text/plain; charset=utf-8", text.encode()


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


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], page: Callable[[str], Page]) -> None:
        self.page = page
        self._since: dict[socket.socket, float] = {}
        """When each client that has a thread came, the oldest first."""
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a client a thread; it has to wait where the threads of those cut off still end."""
        while len(known := [*self._since]) >= CLIENTS:
            _cut(known[0])
            time.sleep(0.001)
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Cut those off whose time is up; called between clients, twice a second at least."""
        for request, since in [*self._since.items()]:
            if time.monotonic() - since > CLIENT_SECONDS:
                _cut(request)

    def shutdown_request(self, request: Any) -> None:
        """The last that a client's thread does."""
        super().shutdown_request(request)
        self._since.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of our own mistakes; that a client is gone is none."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _DualServer(_Server):
    """For IPv6 and IPv4: a pod's address may be of either kind."""

    address_family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    # A page leaves in one piece: of a process that ends between two header lines, a client would
    # read an answer of status 200 without a body, and take it for a page without numbers.
    wbufsize = 1 << 20

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Beginning(self.connection))

    def do_GET(self) -> None:
        """Answer."""
        status, kind, content = self.server.page(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log no scrapes, and no words of a client."""


class _Beginning(io.RawIOBase):
    """What a client sends, which seems to end after `REQUEST_BYTES`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._left = connection, REQUEST_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            return 0
        count = self._connection.recv_into(buffer, min(len(buffer), self._left))
        self._left -= count
        return count


def _cut(client: socket.socket) -> None:
    """End what a client's thread waits for."""
    with contextlib.suppress(OSError):  # it has just ended
        client.shutdown(socket.SHUT_RDWR)


def _listening(port: int, page: Callable[[str], Page]) -> _Server:
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # compiled in, but switched off
            return _DualServer(("::", port), page)
    return _Server(("", port), page)


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
