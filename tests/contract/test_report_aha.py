"""The page on reflection: the numbers by hand, what cannot be told, examples that are safe."""

import html
import re

import pytest
from report_pages import Elements, page
from sample_run import finished_run

from coldstart import layout
from coldstart.estimates import reflection
from coldstart.layout import RunLayout
from coldstart.lexicon import MAYE_LIST, WordList
from coldstart.report.aha import AFTER, BEFORE, EACH, aha
from coldstart.report.reading import read_run
from coldstart.report.words import MINUS, MISSING
from coldstart.results import Sample
from coldstart.summary import write_result, write_samples

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}"


def sample(place, response, correct=True):
    return Sample(
        id=str(place),
        problem=f"What is the sum? {HOSTILE}",
        gold="7",
        response=response,
        tokens=9,
        truncated=False,
        boxed=True,
        extracted="7" if correct else "8",
        outcome="correct" if correct else "wrong",
    )


def evaluated(parent, answered, words=MAYE_LIST):
    """A run with the responses of its checkpoints to one benchmark."""
    root = finished_run(parent, stages=("sft", "evaluation"), problems=1)
    for checkpoint, samples in answered.items():
        directory = RunLayout(root).benchmark(checkpoint, "held-out")
        write_samples(directory, samples)
        result = read_run(root).results[checkpoint, "held-out"]
        changed = {"n": len(samples), "reflection": reflection(samples, words)}
        write_result(directory, result.model_copy(update=changed))
    return root


def told(text):
    """The section on reflection, as it is read, with a bar where an element begins or ends."""
    section = text[text.index('<section id="reflection"') :]
    bare = re.sub(r"<[^>]*>", "|", section[: section.index("</section>")])
    plain = html.unescape(" ".join(bare.split())).replace(MINUS, "-").replace(MISSING, "none")
    return re.sub(r"[\s|]*\|[\s|]*", "|", plain)


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """SFT reflects, and is the more often wrong for it; the base model never does."""
    sft = [sample(n, f"Wait, {n}. Let me re-check.", n < 10) for n in range(40)]
    sft += [sample(n, f"It is {n}.", n < 80) for n in range(40, 100)]
    base = [sample(n, f"It is {n}.", n < 50) for n in range(100)]
    return evaluated(tmp_path_factory.mktemp("aha"), {"base": base, "sft": sft})


def test_the_ratios_the_correlation_and_the_words_stand_there(some):
    text = told(page(some))
    assert "Words of the list|maye|(MAYE, arXiv 2504.02587), found whole" in text
    assert "It is not the list of the paper, which is not known." in text
    ratios = "40.0 %|30.9 to 49.8|20.0 %|11.2 to 33.0|60.0 %|46.2 to 72.4|25.0 %|14.2 to 40.2|"
    assert f"SFT|held-out|40 of 100|{ratios}66.7 %|54.1 to 77.3|-0.41|-0.5" in text
    none = "0.0 %|0.0 to 3.7|0.0 %|0.0 to 7.1|0.0 %|0.0 to 7.1|none|no such response|50.0 %"
    assert f"Base|held-out|0 of 100|{none}|40.4 to 59.6|none|no response reflects|" in text
    assert "Word|Base|SFT|re-check|none|40|40.0 %|wait|none|40|40.0 %|" in text
    assert "In no response: re-evaluate, re-examine, re-think, recheck," in text


def test_a_few_examples_of_both_kinds_have_their_words_marked(some):
    found = aha(read_run(some), [])
    assert list(found.examples) == ["sft"]
    assert [example.sample.correct for example in found.examples["sft"]] == [
        True,
        True,
        False,
        False,
    ]
    assert EACH == 2
    for example in found.examples["sft"]:
        assert "".join(piece.text for piece in example.pieces) == example.sample.response
        marked = [piece.text for piece in example.pieces if piece.marked]
        assert marked == ["Wait", "re-check"]
    elements = Elements(page(some))
    assert page(some).count("<mark>Wait</mark>") == 4
    assert elements.scripts() == [{}]
    assert HOSTILE in told(page(some))


def test_which_examples_are_shown_is_no_matter_of_their_order(some, tmp_path):
    directory = RunLayout(some).benchmark("sft", "held-out")
    lines = layout.samples(directory).read_text().splitlines(keepends=True)
    before = aha(read_run(some), []).examples
    layout.samples(directory).write_text("".join(reversed(lines)))
    assert aha(read_run(some), []).examples == before
    layout.samples(directory).write_text("".join(lines))


def test_a_long_response_is_cut_around_its_first_word(tmp_path):
    text = "a " * 5000 + f"wait, {HOSTILE} then verify " + "b " * 5000 + "yet"
    root = evaluated(tmp_path, {"sft": [sample(0, text)]})
    [example] = aha(read_run(root), []).examples["sft"]
    assert (example.before, example.after, example.words) == (True, True, 3)
    shown = "".join(piece.text for piece in example.pieces)
    assert shown in text
    assert len(shown) == BEFORE + len("wait") + AFTER
    assert [piece.text for piece in example.pieces if piece.marked] == ["wait", "verify"]
    assert "3 such words" in told(page(root))
    assert Elements(page(root)).scripts() == [{}]


def test_a_list_of_ones_own_is_named_and_marked(tmp_path):
    own = WordList(name="hesitation <b>", words=("hmm", "oh"))
    root = evaluated(tmp_path, {key: [sample(0, "hmm, wait")] for key in ("base", "sft")}, own)
    text = page(root)
    assert "Words of the list|hesitation <b>|, found whole" in told(text)
    assert "<mark>hmm</mark>, wait" in text
    assert "this run's own list of words (hesitation <b>), not by the paper's" in " ".join(
        Elements(text).text.split()
    )


def test_without_responses_there_are_the_numbers_and_a_sentence(some):
    directory = RunLayout(some).benchmark("sft", "held-out")
    kept = layout.samples(directory).rename(directory / "aside")
    problems = []
    found = aha(read_run(some), problems)
    assert not found.examples
    assert [result.checkpoint for result in found.results] == ["base", "sft"]
    assert re.fullmatch(
        r"No reflecting responses are shown: .*samples.jsonl: is missing: .*", problems[0]
    )
    kept.rename(layout.samples(directory))


def test_without_results_there_is_no_section(tmp_path):
    assert aha(read_run(finished_run(tmp_path, stages=("sft",))), []) is None
