"""What a scraper costs a training step: SFT of a tiny model, scraped at 10 Hz and left alone.

Usage: python benchmarks/exporter.py [--updates N] [--block N] [--hertz F] [--json]

One run; blocks of updates with and without the scraper take turns, so that a machine that slows
down slows both. The ratio is the median over neighbouring blocks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import tiny  # noqa: E402 - it sets torch's number of threads
from stage_attempts import here, order  # noqa: E402
from transformers import TrainerCallback  # noqa: E402

from coldstart_trainer import sft  # noqa: E402
from coldstart_trainer.exporter import Exporter  # noqa: E402
from coldstart_trainer.meter import Meter  # noqa: E402


class Turns(TrainerCallback):
    """Takes the time of each update, and has the scraper work in every other block of them."""

    def __init__(self, block: int, scrape: threading.Event) -> None:
        self.block, self.scrape = block, scrape
        self.begun = 0.0
        self.blocks: list[tuple[bool, list[float]]] = [(False, [])]

    def on_step_begin(self, *_: object, **__: object) -> None:
        """An update begins."""
        self.begun = time.perf_counter()

    def on_step_end(self, _args: object, state: object, *_: object, **__: object) -> None:
        """It ends, and the scraper's turn may, too."""
        self.blocks[-1][1].append(time.perf_counter() - self.begun)
        if state.global_step % self.block == 0:
            (self.scrape.clear if self.scrape.is_set() else self.scrape.set)()
            self.blocks.append((self.scrape.is_set(), []))

    def medians(self) -> list[tuple[bool, float]]:
        """Of each block, without the first, which warms up, and each one's first update."""
        whole = [block for block in self.blocks[1:] if len(block[1]) == self.block]
        return [(scraped, statistics.median(taken[1:])) for scraped, taken in whole]


class Scraper(threading.Thread):
    """Fetches the page at a rate while it is told to."""

    def __init__(self, port: int, hertz: float) -> None:
        super().__init__(daemon=True)
        self.url, self.hertz = f"http://127.0.0.1:{port}/metrics", hertz
        self.wanted = threading.Event()
        self.seconds: list[float] = []
        self.bytes = 0

    def run(self) -> None:
        """Scrape until the program ends."""
        while self.wanted.wait():
            begun = time.perf_counter()
            with urllib.request.urlopen(self.url) as page:  # noqa: S310 - our own
                self.bytes = len(page.read())
            self.seconds.append(time.perf_counter() - begun)
            time.sleep(max(0.0, 1 / self.hertz - self.seconds[-1]))


class Folders:
    """Where the tiny model and its rows go."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def mktemp(self, name: str) -> Path:
        """A new folder, as pytest's factory makes one."""
        (self.root / name).mkdir()
        return self.root / name


def measured(updates: int, block: int, hertz: float, folder: Path) -> dict[str, float]:
    """The medians of an update with and without a scraper, and what a scrape takes."""
    model = tiny.tiny_model.__wrapped__(Folders(folder))
    rows = tiny.tiny_rows.__wrapped__(Folders(folder))
    section = {"maxSteps": updates, "epochs": updates, "saveSteps": updates, "probe": {"size": 0}}
    meter = Meter()
    exporter = Exporter(meter, ("run", "sft", "tiny"), 0)
    scraper = Scraper(exporter.port, hertz)
    turns = Turns(block, scraper.wanted)
    scraper.start()
    init = sft.Trainer.__init__

    def with_turns(self: sft.Trainer, *arguments: object, **named: object) -> None:
        init(self, *arguments, **named)
        self.add_callback(turns)

    sft.Trainer.__init__ = with_turns
    here(order("sft", folder / "runs", model, rows, **section), meter)
    exporter.close()
    blocks = turns.medians()
    alone, scraped = ([taken for which, taken in blocks if which is it] for it in (False, True))
    return {
        "updates": len(blocks) * block,
        "scrapes": len(scraper.seconds),
        "page_bytes": scraper.bytes,
        "scrape_seconds": statistics.median(scraper.seconds),
        "step_seconds": statistics.median(alone),
        "step_seconds_scraped": statistics.median(scraped),
        "ratio": statistics.median(b / a for a, b in zip(alone, scraped, strict=False)),
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=606)
    parser.add_argument("--block", type=int, default=6, help="updates between two changes")
    parser.add_argument("--hertz", type=float, default=10)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(arguments.updates, arguments.block, arguments.hertz, Path(folder))
    print(
        f"{found['updates']:.0f} updates, {found['scrapes']:.0f} scrapes of "
        f"{found['page_bytes']:.0f} bytes in {found['scrape_seconds'] * 1e3:.1f} ms: "
        f"{found['step_seconds'] * 1e3:.1f} ms an update alone, "
        f"{found['step_seconds_scraped'] * 1e3:.1f} ms scraped, ratio {found['ratio']:.3f}"
    )
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
