"""The report of 5,000 responses of each of three checkpoints in Chromium: opening and filtering.

Beside it stands a page of the same responses that draws them all when it opens, and whose filter
hides what does not fit. Times are wall-clock times of one Chromium without a network.
"""

from __future__ import annotations

import html
import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from chromium import CHROMIUM, QUIET  # noqa: E402
from large_run import large_run  # noqa: E402

from coldstart.report import write_report  # noqa: E402
from coldstart.report.pictures import gallery  # noqa: E402
from coldstart.report.reading import RunRecord, read_run, samples  # noqa: E402

OBSERVE = """window.long = [];
new PerformanceObserver((seen) => {
  for (const task of seen.getEntries()) window.long.push(task.duration);
}).observe({ type: "longtask", buffered: true });"""
FILTER = """function only(change) {
  for (const one of document.querySelectorAll("article")) {
    one.hidden = !one.classList.contains(change);
  }
}"""


@dataclass
class Measured:
    """One page."""

    name: str
    bytes: int
    elements: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """Until it was drawn, by what was done."""
    longest: dict[str, list[float]] = field(default_factory=dict)
    """Milliseconds of the longest task, by what was done."""

    def median(self, what: str) -> tuple[float, float]:
        """Seconds, and milliseconds of the longest task."""
        return statistics.median(self.seconds[what]), statistics.median(self.longest[what])


@click.command(help=__doc__)
@click.option("--responses", default=5_000, show_default=True, help="Of each checkpoint.")
@click.option("--words", default=220, show_default=True, help="In each response.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(responses: int, words: int, repeats: int, as_json: bool) -> None:
    """Make both pages, open and filter each several times."""
    with tempfile.TemporaryDirectory() as parent:
        wanted = {"mathvista": responses // 5, "mathverse": responses - responses // 5}
        root = large_run(Path(parent), wanted, words=words, drawing=drawn)
        began = time.perf_counter()
        ours = write_report(root)
        written = time.perf_counter() - began
        other = root / "everything.html"
        other.write_text("".join(everything(read_run(root))), encoding="utf-8")
        found = [
            measured("everything drawn", other, repeats, EVERYTHING),
            measured("report", ours, repeats, BROWSER),
        ]
    if as_json:
        told = {page.name: {**vars(page)} for page in found}
        click.echo(json.dumps({"write_seconds": written, **told}))
        return
    Console().print(table(found, f"written in {written:.1f} s"))


def drawn(number: int) -> bytes:
    """A drawing of the size of an evaluation's thumbnails, another one for each number."""
    draw = random.Random(number)  # noqa: S311
    image = Image.new("RGB", (384, 288), "white")
    pen = ImageDraw.Draw(image)
    corners = [(draw.randrange(20, 364), draw.randrange(20, 268)) for _ in range(4)]
    pen.polygon(corners, outline="black", width=2)
    pen.ellipse((*corners[0], corners[0][0] + 90, corners[0][1] + 90), outline="navy", width=2)
    for letter, corner in zip("ABCD", corners, strict=True):
        pen.text(corner, f"{letter} {number}", fill="black")
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def everything(found: RunRecord) -> Iterator[str]:
    """The page that draws every response."""
    yield f"<!doctype html><meta charset=utf-8><script>{FILTER}</script>"
    for benchmark in found.benchmarks:
        answers = [list(samples(found, name, benchmark)) for name in found.complete]
        copies = gallery(
            found.layout.images, [n for s in answers[0] for n in s.images], 16_000_000
        ).copies
        for row in zip(*answers, strict=True):
            change = "gained" if row[-1].correct and not row[0].correct else "other"
            yield f"<article class={change}><p>{html.escape(row[0].problem)}</p>"
            yield from (f"<img src='{copies[name].uri}'>" for name in row[0].images)
            yield from (f"<pre>{html.escape(sample.response)}</pre>" for sample in row)
            yield "</article>"


def _everything_opened(page: Page) -> None:
    page.wait_for_selector("article:last-of-type")


def _settled(page: Page) -> None:
    page.wait_for_selector("#browser:not([aria-busy]) #found:not(:empty)", state="attached")


def _searched(page: Page) -> None:
    page.fill("[name=q]", "no such words anywhere")
    page.press("[name=q]", "Enter")
    _settled(page)


Steps = dict[str, Callable[[Page], Any]]

EVERYTHING: Steps = {
    "open": _everything_opened,
    "filter": lambda page: page.evaluate(
        "() => { only('gained'); return document.body.offsetHeight; }"
    ),
}
BROWSER: Steps = {
    "open": _settled,
    "filter": lambda page: (page.check("[name=change][value=gained]"), _settled(page)),
    "search": _searched,
}


def measured(name: str, path: Path, repeats: int, steps: Steps) -> Measured:
    """A page, opened and filtered several times."""
    found = Measured(name, path.stat().st_size)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        for _ in range(repeats):
            context = browser.new_context(offline=True)
            context.add_init_script(OBSERVE)
            page = context.new_page()
            page.set_default_timeout(300_000)
            for number, (what, step) in enumerate(steps.items()):
                began = time.perf_counter()
                if not number:
                    page.goto(path.as_uri())
                step(page)
                found.seconds.setdefault(what, []).append(time.perf_counter() - began)
                page.wait_for_timeout(300)
                longest = max(page.evaluate("window.long.splice(0)"), default=0)
                found.longest.setdefault(what, []).append(longest)
            found.elements = page.locator("body *").count()
            context.close()
        browser.close()
    return found


def table(found: list[Measured], title: str) -> Table:
    """Both pages side by side; medians."""
    made = Table(title=title)
    for heading in ("page", "MB", "elements", "step", "seconds", "longest task, ms"):
        made.add_column(heading, justify="left" if heading in ("page", "step") else "right")
    for page in found:
        for number, what in enumerate(page.seconds):
            seconds, longest = page.median(what)
            head = (page.name, f"{page.bytes / 1e6:.1f}", f"{page.elements:,}")
            made.add_row(
                *(("", "", "") if number else head), what, f"{seconds:.2f}", f"{longest:.0f}"
            )
    return made


if __name__ == "__main__":
    main()
