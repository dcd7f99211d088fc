"""The page as a real Chromium shows it: whole, quiet, offline, within the screen, readable."""

import random

import pytest
from chromium import needs_chromium
from sample_run import START, document, failed, finished_run, write_results, write_sft, write_status

from coldstart.layout import RunLayout
from coldstart.report import write_report
from coldstart.report.reading import read_run, samples
from coldstart.run import ReasoningRun
from coldstart.status import RunStatus, StageStatus

pytestmark = needs_chromium

HOSTILE = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'> "
LEAST_CONTRAST = 4.5

CONTRASTS = """() => {
  // The contrast (WCAG 2.2) of every piece of text that is drawn in HTML on an opaque ground.
  const parse = (colour) => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const c = parse(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] === 1) return c;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    if (element.closest("title, style")) continue;
    const style = getComputedStyle(element);
    const inSVG = element.namespaceURI.endsWith("svg");
    const [a, b] = [light(parse(inSVG ? style.fill : style.color)), light(ground(element))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.textContent]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The pages of runs in different states, by what they are."""
    parent = tmp_path_factory.mktemp("runs")
    waiting = RunLayout(parent / "waiting")
    waiting.root.mkdir()
    write_status(waiting, ReasoningRun.parse(document()), RunStatus())
    running = RunLayout(parent / "running")
    running.root.mkdir()
    write_sft(running, random.Random(0))
    sft = StageStatus(name="sft", state="Running", attempt=2, failures=1, started_at=START)
    status = RunStatus(phase="SFTRunning", message="sft attempt 2 is running", stages=(sft,))
    write_status(running, ReasoningRun.parse(document()), status)
    broken = finished_run(parent, "a-run-with-the-longest-name-that-can-be")
    failed(broken, "x" * 4000)
    states = {
        "finished": finished_run(parent, problems=120),
        "benchmarks": _hostile(finished_run(parent, "benchmarks", spec=_four_benchmarks())),
        "waiting": waiting.root,
        "running": running.root,
        "failed": broken,
    }
    return {state: write_report(run_dir) for state, run_dir in states.items()}


def _four_benchmarks() -> dict:
    names = ("mathvista", "mathverse", "mathvision", "we-math")
    benchmarks = [{"name": name, "dataset": {"name": f"{name}.parquet"}} for name in names]
    return {"evaluation": document()["spec"]["evaluation"] | {"benchmarks": benchmarks}}


def _hostile(run_dir):
    found = read_run(run_dir)
    for checkpoint in found.complete:
        written = [
            item.model_copy(update={"response": HOSTILE * 80 + "x" * 3000 + item.response})
            for item in samples(found, checkpoint, "mathvista")
        ]
        write_results(found.layout, checkpoint, "mathvista", written)
    return run_dir


@pytest.fixture
def opened(browser, reports):
    """Opens a run's page and notes what the browser says and asks for."""
    contexts = []

    def open_(name, width=1280, scheme="light"):
        path = reports[name]
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_load_state("load")
        assert said == []
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        return page

    yield open_
    for context in contexts:
        context.close()


STATES = ("finished", "benchmarks", "waiting", "running", "failed")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("state", STATES)
def test_nothing_is_wider_than_the_screen(opened, state, width):
    page = opened(state, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("details").evaluate_all("all => all.forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES)
def test_every_text_stands_out(opened, state, scheme):
    found = opened(state, scheme=scheme).evaluate(CONTRASTS)
    assert len(found) > 50
    faint = [(round(ratio, 2), text) for ratio, text in found if ratio < LEAST_CONTRAST]
    assert faint == []


def test_pictures_and_charts_are_drawn(opened):
    page = opened("finished")
    widths = page.locator("img").evaluate_all("all => all.map((one) => one.naturalWidth)")
    assert len(widths) >= 6
    assert all(widths)
    boxes = page.locator("svg").evaluate_all(
        "all => all.map((one) => one.getBoundingClientRect()).map((b) => [b.width, b.height])"
    )
    assert len(boxes) == 3 + 3 + 13
    assert all(width > 50 and height > 20 for width, height in boxes)


def test_the_pointer_reads_a_curve(opened):
    page = opened("finished")
    plot = page.locator(".plot").first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    stop = plot.locator(".stop:hover")
    assert stop.count() == 1
    assert "training" in stop.locator("title").text_content()
    assert stop.locator("circle").first.evaluate("one => getComputedStyle(one).opacity") == "1"


def test_what_a_model_wrote_does_nothing(opened):
    page = opened("benchmarks")
    assert page.evaluate("window.pwned") is None
    assert page.locator("script:not([type])").count() == 1
    assert page.locator("img[src='x']").count() == 0
    assert "<script>window.pwned" in page.locator("body").inner_text()


def test_a_script_that_got_in_would_not_run(browser, reports, tmp_path):
    text = reports["waiting"].read_text()
    broken = tmp_path / "broken.html"
    broken.write_text(text.replace("<main", f"{HOSTILE}<main"))
    page = browser.new_page()
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.goto(broken.as_uri())
    assert page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in message for message in said)
    page.close()


def test_the_spec_unfolds(opened):
    page = opened("finished")
    spec = page.locator("details pre")
    assert not spec.is_visible()
    page.locator("summary").click()
    assert spec.is_visible()
    assert "name: digits" in spec.inner_text()


def test_without_results_there_is_no_dead_link(opened):
    for state in STATES:
        page = opened(state)
        targets = page.locator("a[href^='#']").evaluate_all(
            "all => all.filter((one) => !document.querySelector(one.hash.split('?')[0])).length"
        )
        assert targets == 0
