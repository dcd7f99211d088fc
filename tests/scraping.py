"""What Prometheus would see of an exporter: pages fetched over HTTP, read with its own parser."""

import contextlib
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families


def fetch(port, path="/metrics"):
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def families(text):
    """The families of a page by name, `_total` and prefix included."""
    found = {}
    for family in text_string_to_metric_families(text):
        found[family.name + ("_total" if family.type == "counter" else "")] = family
    return found


def value(text, name, **labels):
    """The one sample of this name that has these labels."""
    (found,) = (
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
    return found


def total(text, name, **labels):
    """The sum of all samples of this name that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@contextlib.contextmanager
def scraped(port, seconds=0.05):
    """The pages of an exporter, one after the other, as long as the block runs."""
    pages, over = [], threading.Event()

    def scrape():
        while not over.wait(seconds):
            pages.append((time.monotonic(), fetch(port)[1]))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield pages
    finally:
        over.set()
        thread.join()


def lint(text):
    """What promtool says of a page; empty if it has no complaint."""
    if not shutil.which("promtool"):
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False
    )
    return done.stdout + done.stderr
