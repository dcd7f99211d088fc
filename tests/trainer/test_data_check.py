"""Checks of data sets: what each finds, what it must not find, and what it makes of broken data."""

import io
import json
import struct
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_rows import ASKED, PROBLEM, drawing, row, write
from PIL import Image, ImageDraw, PngImagePlugin

from coldstart.findings import CheckRequest
from coldstart.report.data_page import render
from coldstart_trainer.check import near
from coldstart_trainer.check.scan import Scan


@pytest.fixture
def check(tmp_path):
    """Check sets of rows, each a list by the name of its use; pictures lie beside them as bytes."""

    def call(*, pictures=False, limit=5, model="m", conversation=None, **sets):
        spec = {"model": {"name": str(model)}, "conversation": conversation or {}}
        for use, rows in sets.items():
            write(tmp_path, use, rows)
            dataset = {"dataset": {"name": f"{use}.jsonl"}}
            if use == "test":
                spec["evaluation"] = {"benchmarks": [{"name": "test"} | dataset]}
            elif use == "probe":
                spec["sft"]["probe"] = dataset
            else:
                spec[use] = dataset
        request = {"spec": spec, "workdir": str(tmp_path), "limit": limit, "pictures": pictures}
        return Scan(CheckRequest.parse(request)).report()

    return call


def counts(report, *wanted):
    """Rows by kind and data sets; only the kinds that are wanted, if any are named."""
    ignored = ("scaled_up",)
    return {
        (finding.kind, *finding.datasets): finding.rows
        for finding in report.findings
        if finding.kind in (wanted or [finding.kind]) and finding.kind not in ignored
    }


def test_clean_sets_have_no_findings(check):
    sets = {
        name: [row(PROBLEM.format(number), images=[drawing(number)]) for number in numbers]
        for name, numbers in {"sft": range(4), "grpo": range(4, 8), "test": range(8, 12)}.items()
    }
    report = check(**sets)
    assert counts(report) == {}
    assert [(item.label, item.rows, item.images) for item in report.datasets] == [
        ("sft", 4, 4),
        ("grpo", 4, 4),
        ("benchmark test", 4, 4),
    ]


def test_equal_rows_are_found_in_a_set_and_between_sets(check):
    twice = row(images=[drawing(1)])
    shouted = twice | {"problem": "<image>  " + twice["problem"].upper()}
    report = check(
        sft=[twice, row("Else?"), shouted],
        grpo=[twice],
        test=[row("Other?"), shouted],
    )
    assert counts(report) == {
        ("duplicates", "sft"): 1,
        ("shared", "grpo", "sft"): 1,
        ("leakage", "benchmark test", "sft"): 1,
        ("leakage", "benchmark test", "grpo"): 1,
    }
    leak = next(finding for finding in report.findings if finding.kind == "leakage")
    assert [shown.place for shown in leak.examples[0].rows] == [
        "test.jsonl, row 1",
        "sft.jsonl, row 0",
    ]
    assert leak.level == "mistake"


def test_a_published_benchmark_is_read_in_its_released_layout(check, tmp_path):
    """Its options stand in the problem and beside it; training data write them otherwise."""
    options = ["A. 5", "B. 6"]
    released = {
        "ID": "1",
        "key": "k1",
        "question": ASKED,
        "option": "A. 5; B. 6",
        "answer": "A",
        "image_path": "one.png",
    }
    (tmp_path / "one.png").write_bytes(drawing(1))
    (tmp_path / "wemath.jsonl").write_text(json.dumps(released) + "\n")
    write(tmp_path, "sft", [row("\n".join((ASKED, *options)), images=[drawing(1)])])
    spec = {
        "model": {"name": "m"},
        "sft": {"dataset": {"name": "sft.jsonl"}},
        "evaluation": {"benchmarks": [{"name": "wemath", "dataset": {"name": "wemath.jsonl"}}]},
    }
    report = Scan(CheckRequest.parse({"spec": spec, "workdir": str(tmp_path)})).report()
    assert counts(report) == {("leakage", "benchmark wemath", "sft"): 1}
    assert [item.licence for item in report.datasets] == ["unknown", "CC BY-NC 4.0"]


def test_a_probe_leaks_and_two_held_out_sets_only_share(check):
    report = check(sft=[row()], probe=[row(), row("Own?")], test=[row("Own?")])
    assert counts(report) == {
        ("leakage", "probe of sft", "sft"): 1,
        ("shared", "benchmark test", "probe of sft"): 1,
    }


def test_several_responses_to_one_problem_are_no_duplicates_but_another_answer_is_told(check):
    report = check(
        sft=[
            row(),
            row(response="Thus \\boxed{7}."),
            row(response="\\boxed{8}", answer="8"),
            row(response="\\boxed{9}", answer="None"),
        ]
    )
    assert counts(report) == {("other_answer", "sft"): 1}


def test_the_same_words_with_another_picture_are_another_problem(check):
    """Line drawings on white look alike to a perceptual hash."""
    report = check(grpo=[row("Find the value of x.", images=[drawing(n)]) for n in range(150)])
    assert counts(report) == {}


def test_a_square_is_no_other_number(check):
    """Compatible forms of Unicode would make one of them."""
    assert counts(check(grpo=[row("What is 3\u00b2?"), row("What is 32?")])) == {}


def test_choices_belong_to_the_problem(check):
    asked = [
        row("Which?", choices=["one", "two"]),
        row("Which?", choices=["one", "three"]),
        row("Which?\n(A) one\n(B) four"),
        row("Which?"),
    ]
    assert counts(check(grpo=asked)) == {}
    report = check(grpo=asked, test=[row("Which?\nOptions:\n(A) one\n(B) two")])
    assert counts(report) == {("leakage", "benchmark test", "grpo"): 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"problem": "Look closely. " + PROBLEM.format(3)},
        {"problem": "<image>" + PROBLEM.format(3).replace(",", "")},
        {"images": [drawing(1, "JPEG", quality=70)]},
        {"images": [drawing(1, side=320)]},
        {"problem": PROBLEM.format(3) + " Give it.", "images": [drawing(1, "WEBP", quality=80)]},
    ],
    ids=["words", "commas", "jpeg", "size", "both"],
)
def test_what_is_nearly_equal_is_found(check, changes):
    first = row(images=[drawing(1)])
    report = check(sft=[first, row("Else?")], test=[row("Other?"), first | changes])
    assert counts(report) == {("near_leakage", "benchmark test", "sft"): 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"problem": PROBLEM.format(4)},
        {"problem": PROBLEM.format("-3")},
        {"problem": PROBLEM.format("3\u00b2")},
        {"problem": PROBLEM.format(3).replace("one corner", "corner ABC")},
        {"problem": "How long is the longest side of what is drawn here, moved by 3?"},
        {"images": [drawing(2)]},
        {"images": []},
        {"images": [drawing(1), drawing(1)]},
    ],
    ids=["number", "sign", "square", "name", "words", "picture", "none", "two"],
)
def test_what_differs_is_not_nearly_equal(check, changes):
    first = row(images=[drawing(1)])
    report = check(sft=[first], grpo=[first | changes], test=[row("Other?")])
    assert counts(report) == {}


def test_near_rows_in_one_set_and_in_two_that_are_learnt(check):
    second = row("Now then: " + ASKED)
    third = row("Well, now then: " + ASKED)
    assert counts(check(sft=[row(), second], grpo=[third])) == {
        ("near_duplicates", "sft"): 1,
        ("near_shared", "grpo", "sft"): 1,
    }


@pytest.mark.parametrize(("answer", "found"), [("7", 1), ("8", 0)])
def test_a_drawing_with_another_label_is_told_apart_by_the_answer(check, answer, found):
    labelled = []
    for label in ("12", "13"):
        image = Image.open(io.BytesIO(drawing(1)))
        ImageDraw.Draw(image).text((100, 10), label, fill="black")
        made = io.BytesIO()
        image.save(made, "PNG")
        labelled.append(made.getvalue())
    report = check(
        grpo=[row(images=labelled[:1])],
        test=[row(images=labelled[1:], answer=answer)],
    )
    assert sum(counts(report).values()) == found


def test_thousands_of_one_text_are_compared_with_their_neighbours_only():
    problems = near.Problems()
    text = problems.add_text(PROBLEM)
    look = near.Look(10, 10, 5, bytes(near.CELLS**2))
    for number in range(1000):
        problems.looks.append(look)
        problems.add(text, (number,))
    pairs = near.near_pairs(problems)
    assert 1000 <= len(pairs) <= 1000 * near.WINDOW


def test_no_problem_or_one_has_no_pairs():
    problems = near.Problems()
    assert near.near_pairs(problems) == []
    problems.add(problems.add_text("a"), ())
    assert near.near_pairs(problems) == []


def bomb():
    """A small file that claims to be an image of 40,000 x 40,000 pixels."""
    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def text_bomb():
    """A picture with a compressed text of many megabytes."""
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "0" * 80_000_000, zip=True)
    made = io.BytesIO()
    Image.new("RGB", (600, 600)).save(made, "PNG", pnginfo=text)
    return made.getvalue()


def plain(width, height, mode="RGB"):
    made = io.BytesIO()
    Image.new(mode, (width, height)).save(made, "PNG")
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (b"no picture", "undecodable_image", "no image of a known kind"),
        (b"", "undecodable_image", "no image of a known kind"),
        (drawing(1)[:300], "undecodable_image", "truncated"),
        (drawing(1, "JPEG")[:2000], "undecodable_image", "truncated"),
        (None, "undecodable_image", "is missing: there is no file"),
        (text_bomb(), "undecodable_image", "cannot be decoded"),
        (bomb(), "huge_image", "is too large to be decoded"),
        (plain(2010, 10), "image_aspect_ratio", "has 2010 x 10 pixels"),
        (plain(2200, 1100), "scaled_down", "its sides to 71%"),
        (plain(256, 256), "scaled_up", "its sides to 200%"),
    ],
    ids=["text", "empty", "cut", "cut jpeg", "gone", "text bomb", "bomb", "long", "big", "small"],
)
def test_an_image_that_cannot_be_used_as_it_is(check, content, kind, words):
    good = plain(1000, 1000)
    report = check(grpo=[row("One?", images=[good]), row("Two?", images=[good, content])])
    (finding,) = report.findings
    assert (finding.kind, finding.rows) == (kind, 1)
    assert finding.examples[0].note.startswith("image 1 ")
    assert words in finding.examples[0].note


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "I;16", "L"])
def test_every_mode_of_a_picture_can_be_looked_at(check, mode):
    assert check(grpo=[row(images=[plain(600, 600, mode)])]).findings == ()


@pytest.mark.parametrize(
    ("changes", "kind", "note"),
    [
        ({"response": "It is 7."}, "no_box", ""),
        ({"response": "So \\boxed{7"}, "no_box", "the last box is not closed"),
        ({"response": "\\boxed{7}, no: \\boxed{8}"}, "wrong_box", "box '8', answer '7'"),
        ({"response": " "}, "no_response", ""),
        ({"problem": " "}, "empty_problem", ""),
        (
            {"problem": "<image><image>?", "images": [plain(600, 600)]},
            "image_marks",
            "2 marks, 1 images",
        ),
    ],
)
def test_a_row_to_learn_that_is_wrong(check, changes, kind, note):
    (finding,) = check(sft=[row("Right?"), row() | changes]).findings
    assert (finding.kind, finding.rows, finding.examples[0].note) == (kind, 1, note)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("\\boxed{0.5}", "1/2"),
        ("\\boxed{9}", None),
        ("\\boxed{9}", "None"),
        ("\\boxed{}\\boxed{7}", "7"),
    ],
)
def test_a_response_that_is_right(check, response, answer):
    assert check(sft=[row(response=response, answer=answer)]).findings == ()


@pytest.mark.parametrize("answer", [None, "", " None ", "nan"])
def test_a_gold_answer_that_is_none(check, answer):
    report = check(grpo=[row("Right?"), row(answer=answer)], test=[row("Zero?", answer=0)])
    assert counts(report) == {("no_answer", "grpo"): 1}


def test_lengths_are_tokens_with_the_models_tokenizer(check, tiny_model):
    report = check(
        sft=[row("Add.", images=[plain(56, 28)]), row("Add. " * 90, response="\\boxed{7}" * 40)],
        model=tiny_model,
        conversation={
            "minPixels": 784,
            "maxPixels": 12_544,
            "maxPromptTokens": 200,
            "maxCompletionTokens": 40,
        },
    )
    assert counts(report) == {("prompt_too_long", "sft"): 1, ("response_too_long", "sft"): 1}
    prompts, responses = report.datasets[0].lengths
    assert (prompts.unit, prompts.limit, sum(prompts.counts)) == ("tokens", 200, 2)
    assert (responses.what, responses.limit, sum(responses.counts)) == ("response", 40, 2)
    assert len(prompts.counts) * prompts.width > prompts.longest > 200
    assert report.notes == ()


def test_lengths_are_characters_without_it(check):
    report = check(grpo=[row("Sum?", images=[plain(600, 600)])], conversation={"system": "Add."})
    (prompts,) = report.datasets[0].lengths
    assert (prompts.unit, prompts.longest, prompts.limit) == ("characters", 8, None)
    assert "the tokenizer of m is not on this machine" in report.notes[0]


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: cc-by-4.0\n---\n# Rows\n", "cc-by-4.0"),
        ("---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0"),
        ("---\nlicense: other\nlicense_name: ours\n---\n", "ours"),
        ("---\nlicense: 7\n---\n", "unknown"),
        ("---\n: [\n---\n", "unknown"),
        ("---\n- a\n---\n", "unknown"),
        ("---\nlicense: mit\n", "unknown"),
        ("# Rows\nlicense: mit\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_licence_is_what_the_card_names(check, tmp_path, card, licence):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert check(grpo=[row()]).datasets[0].licence == licence


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("{", "line 1 is not JSON"),
        ("", "has no column 'problem'"),
        ('{"problem": "a"}\n', "has no column 'answer'"),
        ('{"problem": {"a": 1}, "answer": "1"}\n', "the column holds struct"),
    ],
)
def test_a_set_that_cannot_be_read_is_told_and_the_others_are_checked(
    check, tmp_path, lines, words
):
    sets = {"sft": [row(), row()], "grpo": [row()]}
    check(**sets)
    (tmp_path / "grpo.jsonl").write_text(lines)
    request = {
        "spec": {
            "model": {"name": "m"},
            "sft": {"dataset": {"name": "sft.jsonl"}},
            "grpo": {"dataset": {"name": "grpo.jsonl"}},
        },
        "workdir": str(tmp_path),
    }
    report = Scan(CheckRequest.parse(request)).report()
    assert counts(report) == {("unreadable", "grpo"): 0, ("duplicates", "sft"): 1}
    assert words in report.findings[0].text
    assert report.findings[0].level == "mistake"


def test_a_text_that_is_no_utf_8_is_told(tmp_path):
    texts = pa.StringArray.from_buffers(
        1, pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xff\xfe")
    )
    pq.write_table(pa.table({"problem": texts, "answer": ["1"]}), tmp_path / "rl.parquet")
    spec = {"model": {"name": "m"}, "grpo": {"dataset": {"name": "rl.parquet"}}}
    report = Scan(CheckRequest.parse({"spec": spec, "workdir": str(tmp_path)})).report()
    (finding,) = report.findings
    assert finding.kind == "unreadable"
    assert "rl.parquet, row 0" in finding.text


def test_examples_are_few_and_a_limit_of_rows_is_told(check):
    report = check(sft=[row()] * 9, limit=2)
    (finding,) = report.findings
    assert (finding.rows, len(finding.examples)) == (8, 2)


def test_the_page_shows_pictures_and_lets_no_text_be_more_than_text(check):
    script = "<script>alert(1)</script>"
    twice = row(PROBLEM.format(3) + script, images=[drawing(1)], response=script, id=script)
    report = check(sft=[twice, twice], test=[twice | {"answer": script}], pictures=True)
    page = render("r", report)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count('<img src="data:image/png;base64,') == sum(
        len(shown.images)
        for finding in report.findings
        for example in finding.examples
        for shown in example.rows
    )
    assert page.count("data:image/png") >= 4
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    assert page.count("<svg") == 3


def test_without_pictures_there_are_none(check):
    report = check(sft=[row(images=[drawing(1)])] * 2)
    assert all(
        not shown.images
        for finding in report.findings
        for example in finding.examples
        for shown in example.rows
    )
    assert "data:image" not in render("r", report)
