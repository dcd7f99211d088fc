"""A real Prometheus beside a test, and Grafana's part in asking it: variables put in, no more."""

import contextlib
import itertools
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

DASHBOARDS = Path(__file__).parents[1] / "charts" / "coldstart" / "dashboards"

WINDOW = "1m"


def dashboard(name):
    """A dashboard as it is shipped."""
    return json.loads((DASHBOARDS / f"{name}.json").read_text())


def panels(name):
    """The panels of a dashboard, without the headings."""
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def queries(name):
    """Title and query of every target of a dashboard."""
    return [
        (panel["title"], target["expr"]) for panel in panels(name) for target in panel["targets"]
    ]


def put_in(text, **chosen):
    """A query as Grafana sends it; what is not chosen is *All*, several are a group."""
    values = dict.fromkeys(("namespace", "run", "stage"), ".*")
    values |= {"window": WINDOW, "__range": WINDOW}
    for name, value in chosen.items():
        values[name] = value if isinstance(value, str) else f"({'|'.join(value)})"
    for name in sorted(values, key=len, reverse=True):
        text = text.replace(f"${name}", values[name])
    assert "$" not in text, text
    return text


class Prometheus:
    """One that runs."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path, **parameters):
        """The data of an answer of the HTTP API; an error is Prometheus' own sentence."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"{self.url}/{path}?{query}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def ask(self, query, at=None):
        """The series of an instant query: labels and value."""
        when = {} if at is None else {"time": at}
        found = self.get("query", query=query, **when)["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    def values(self, variable, **chosen):
        """What Grafana offers for a variable `label_values(selector, label)`."""
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable).groups()
        return self.get(f"label/{label}/values", **{"match[]": put_in(selector, **chosen)})

    def until(self, query, seconds=60):
        """Wait until a query finds something."""
        end = time.monotonic() + seconds
        while not (found := self.ask(query)):
            assert time.monotonic() < end, [query, self.get("targets")["activeTargets"]]
            time.sleep(0.1)
        return found

    def told(self, query, begin, end):
        """Whether a query has a number at any moment of a time."""
        step = max(1.0, (end - begin) / 200)
        found = self.get("query_range", query=query, start=begin, end=end, step=step)["result"]
        return any(_number(value) for series in found for _, value in series["values"])


def _number(text):
    return text != "NaN"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def prometheus(place, *jobs, every="1s"):
    """A Prometheus that scrapes.

    Args:
        place: where its data go.
        jobs: of each, its name, its ports and the labels that a cluster would add.
        every: the scrape interval.
    """
    if not shutil.which("prometheus"):
        pytest.skip("prometheus is not installed")
    scraped = [
        {
            "job_name": name,
            "static_configs": [
                {"targets": [f"127.0.0.1:{port}" for port in ports], "labels": labels}
            ],
        }
        for name, ports, labels in jobs
    ]
    document = {"global": {"scrape_interval": every}, "scrape_configs": scraped}
    (place / "prometheus.yml").write_text(yaml.safe_dump(document))
    port = free_port()
    command = ["prometheus", f"--config.file={place / 'prometheus.yml'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={place / 'data'}"]
    with (place / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _ready(port, process, place / "prometheus.log")
        yield Prometheus(port)
    finally:
        process.terminate()
        process.wait(30)


def _ready(port, process, log):
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10)
            return
        time.sleep(0.05)


def overlapping(name):
    """Pairs of panels of a dashboard that lie on each other."""
    places = [(panel["title"], panel["gridPos"]) for panel in dashboard(name)["panels"]]
    return [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(places, 2)
        if a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    ]
