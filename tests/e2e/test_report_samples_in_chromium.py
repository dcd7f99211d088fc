"""The sample browser in a real Chromium: 5,000 responses of each checkpoint, filtered and sent."""

import re
from urllib.parse import parse_qs

import pytest
from chromium import needs_chromium
from large_run import large_run
from report_pages import rewritten
from sample_run import finished_run

from coldstart.layout import RunLayout
from coldstart.report import write_report
from coldstart.report.browser import ROOM
from coldstart.report.reading import read_run, samples

pytestmark = needs_chromium

LIMIT = ROOM.responses

LONGEST_TASK = 3_000
"""Milliseconds for which the page may be deaf on a busy machine; a tenth of it on an idle one."""

OBSERVE = """window.long = [];
new PerformanceObserver((seen) => {
  for (const task of seen.getEntries()) window.long.push(task.duration);
}).observe({ type: "longtask", buffered: true });"""

STALL = f"""setTimeout(() => {{
  const end = performance.now() + {LONGEST_TASK + 100};
  while (performance.now() < end);
  setTimeout(() => {{ document.body.dataset.stalled = "yes"; }}, 500);
}})"""

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A little more than a page holds."""
    parent = tmp_path_factory.mktemp("runs")
    root = large_run(parent, {"mathvista": 1000, "mathverse": LIMIT - 900}, words=30)
    return write_report(root)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A part of MathVista."""
    return write_report(large_run(tmp_path_factory.mktemp("runs"), {"mathvista": 60}, words=30))


@pytest.fixture
def opened(browser):
    """Opens a page, and sees that it asks for nothing and says nothing."""
    contexts, said = [], []

    def open_(path, fragment="", **options):
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, offline=True, **options
        )
        contexts.append(context)
        context.add_init_script(OBSERVE)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri() + fragment)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []


def settled(page) -> str:
    """How many were found, once they are drawn."""
    page.wait_for_selector("#browser:not([aria-busy]) #found:not(:empty)", state="attached")
    return page.inner_text("#found")


def search(page, words: str) -> str:
    """What is found of words, asked for at once."""
    page.fill("[name=q]", words)
    page.press("[name=q]", "Enter")
    return settled(page)


def test_opening_and_filtering_never_stalls(opened, large):
    page = opened(large)
    assert settled(page) == f"{LIMIT:,} of {LIMIT:,} found"
    assert page.locator("#found-cases article").count() == 10
    assert f"{LIMIT:,} of {LIMIT + 100:,} responses" in page.inner_text("#samples header")
    page.check("[name=change][value=gained]")
    changed = settled(page)
    assert page.locator("[data-count=gained]").inner_text() == changed.split()[0]
    page.select_option("[name=subject]", "counting")
    page.select_option("[name=reflects]", "yes")
    fewer = settled(page)
    assert 0 < int(fewer.split()[0]) < int(changed.split()[0].replace(",", ""))
    for answer in page.locator("#found-cases .answer.c-grpo").all_inner_texts():
        assert "reflects: wait, check again" in answer
    page.click("#browser .found button")
    assert search(page, "WAIT, let me") != search(page, "no such words anywhere")
    assert page.inner_text("#found") == "None of the responses fits these filters."
    assert page.locator("*").count() < 20_000
    long = page.evaluate("window.long")
    assert max(long, default=0) < LONGEST_TASK, long
    page.evaluate(STALL)
    page.wait_for_selector("[data-stalled]", state="attached")
    assert max(page.evaluate("window.long")) > LONGEST_TASK, "a stall would have been seen"


def test_a_link_shows_what_was_filtered(opened, large):
    page = opened(large)
    settled(page)
    for name, value in {"from": "sft", "benchmark": "mathvista", "level": "5"}.items():
        page.select_option(f"[name={name}]", value)
    page.check("[name=change][value=lost]")
    found = settled(page)
    page.click("[data-step='1']")
    settled(page)
    first = page.locator("#found-cases article").first.inner_text()
    fragment = page.evaluate("location.hash")
    assert parse_qs(fragment.removeprefix("#samples?")) == {
        "from": ["sft"],
        "benchmark": ["mathvista"],
        "level": ["5"],
        "change": ["lost"],
        "page": ["2"],
    }
    other = opened(large, fragment)
    assert settled(other) == found
    assert other.locator("#found-cases article").first.inner_text() == first
    other.evaluate("location.hash = '#samples?subject=nonsense&page=9999&from=nobody'")
    other.wait_for_selector("text=page 500 of 500")


def test_tables_lead_to_their_samples(opened, large):
    page = opened(large)
    settled(page)
    page.click("#groups a[data-filter*='mathvista'] >> text=algebra")
    page.wait_for_selector("#found-cases :text('algebra')")
    assert page.eval_on_selector("[name=subject]", "one => one.value") == "algebra"
    page.click("#matchers tr.c-base a >> nth=0")
    page.wait_for_selector("#found-cases .answer.c-base :text('rule: no answer')")
    assert page.eval_on_selector("[name=to]", "one => one.value") == "base"
    assert page.eval_on_selector("[name=subject]", "one => one.value") == ""
    page.locator("#found-cases .question a").first.click()
    page.wait_for_selector("#found:text-is('1 of 5,000 found')")


def test_the_keyboard_is_enough(opened, small):
    page = opened(small)
    everything = settled(page)
    page.locator("[name=to]").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator("[value=gained]").is_checked()
    assert (
        page.locator("label:has([value=gained])").evaluate(
            "one => getComputedStyle(one).outlineStyle"
        )
        == "solid"
    )
    assert settled(page) != everything
    page.keyboard.press("Tab")
    page.keyboard.type("id:7")
    page.wait_for_selector("#found:text-matches('^(1 of|None)')")
    assert page.locator("#found").get_attribute("aria-live") == "polite"


def _attacking(sample):
    return sample.model_copy(
        update={
            "id": f"{sample.id} {HOSTILE}",
            "problem": HOSTILE,
            "gold": HOSTILE,
            "choices": (HOSTILE,),
            "response": f"{HOSTILE} \\boxed{{{HOSTILE}}}",
            "extracted": HOSTILE,
            "outcome": "correct" if sample.correct else HOSTILE,
            "facets": {"subject": f"{HOSTILE}{int(sample.id) % 2}"},
            "other_outcomes": {HOSTILE: HOSTILE},
        }
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run in which everything that a model or a data set says attacks the page."""
    run = finished_run(tmp_path_factory.mktemp("runs"), problems=4)
    for checkpoint in ("base", "sft", "grpo"):
        rewritten(run, checkpoint, "held-out", _attacking)
    for image in list(RunLayout(run).images.iterdir())[:1]:
        image.unlink()
    return run


def test_what_a_model_wrote_stays_text(opened, hostile):
    page = opened(write_report(hostile))
    assert settled(page) == "4 of 4 found"
    page.select_option("[name=subject]", f"{HOSTILE}1")
    assert settled(page) == "2 of 4 found"
    page.fill("[name=q]", "(</script><script>window")
    page.wait_for_selector("#found:text-matches('None')")
    page.fill("[name=q]", "</script><script>window")
    page.wait_for_selector("#found:text-matches('^2 of')")
    assert page.evaluate("window.pwned") is None
    assert page.locator("img[src='x']").count() == 0
    card = page.locator("#found-cases article").first
    assert card.inner_text().count(HOSTILE) >= 3 * 3
    assert card.locator("mark").first.inner_text().startswith("\\boxed{</script>")
    assert "not shown" in page.inner_text("#samples")


def test_a_policy_holds_even_for_our_own_script(browser, hostile):
    page = browser.new_page()
    page.goto(write_report(hostile).as_uri())
    settled(page)
    said = page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; } catch (e) { return e.name; } }"
    )
    assert said == "TypeError"
    page.close()


def test_images_are_drawn(opened, small):
    page = opened(small)
    settled(page)
    widths = page.locator("#found-cases img").evaluate_all("all => all.map((i) => i.naturalWidth)")
    assert widths == [84] * 10


def test_without_scripts_some_samples_are_there(opened, small):
    page = opened(small, java_script_enabled=False)
    assert page.locator("#browser").is_hidden()
    assert page.locator("article.case").count() == 12
    assert "With scripts allowed" in page.inner_text("#samples header")


def test_counts_are_those_of_the_responses(opened, tmp_path):
    run = finished_run(tmp_path, problems=40)
    found = read_run(run)
    right = {
        name: [sample.correct for sample in samples(found, name, "held-out")]
        for name in ("base", "sft", "grpo")
    }
    page = opened(write_report(run), "#samples?from=sft")
    settled(page)
    pairs = list(zip(right["sft"], right["grpo"], strict=True))
    for change, pair in {"gained": (False, True), "lost": (True, False)}.items():
        assert page.inner_text(f"[data-count={change}]") == str(pairs.count(pair))
    alone = finished_run(tmp_path, "alone", problems=9, stages=("evaluation",))
    one = opened(write_report(alone), "#samples?change=missed")
    wrong = settled(one).split()[0].replace("None", "0")
    assert one.inner_text("[data-count=missed]") == wrong
    assert int(wrong) + int(one.inner_text("[data-count=kept]")) == 9
    page.select_option("[name=verdict]", "correct")
    assert re.match(rf"{sum(right['grpo'])} of 40", settled(page))
