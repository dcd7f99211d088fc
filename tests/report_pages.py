"""What tests of the report look at: the page of a run with its elements, and a printed table."""

from html.parser import HTMLParser
from io import StringIO

from rich.console import Console
from sample_run import write_results

from coldstart.report import write_report
from coldstart.report.reading import read_run, samples


def printed(renderable, width=80) -> str:
    """What a terminal shows of it."""
    stream = StringIO()
    Console(file=stream, width=width).print(renderable)
    return stream.getvalue()


def page(run_dir) -> str:
    """The page of a run, written anew."""
    return write_report(run_dir).read_text()


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def named(self, tag):
        return [attributes for name, attributes in self.found if name == tag]

    def scripts(self):
        """What a browser would run: the page's own is one without attributes; the rest is data."""
        data = ("application/json", "text/plain")
        return [a for a in self.named("script") if a.get("type") not in data]


def rewritten(run_dir, checkpoint, benchmark, change) -> None:
    """Samples with something changed in each, and the results that follow."""
    found = read_run(run_dir)
    changed = [change(sample) for sample in samples(found, checkpoint, benchmark)]
    write_results(found.layout, checkpoint, benchmark, changed)
