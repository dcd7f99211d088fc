"""Rows as stages take them: every form they come in, what is dropped, what is refused."""

import json
import os
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from coldstart.dataset import Columns, Dataset
from coldstart.status import ErrorCode
from coldstart_trainer import data
from coldstart_trainer.data import DataError
from coldstart_trainer.generation import encode

FIELD = "spec.sft.dataset"


@pytest.fixture
def load(processor, conversation, tmp_path):
    def call(name="rows.jsonl", *, target="answer", workdir=None, seed=0, spec=None, **dataset):
        return data.load(
            Dataset(name=name, **dataset),
            target=target,
            conversation=spec or conversation,
            processor=processor,
            workdir=workdir or tmp_path,
            seed=seed,
            field=FIELD,
        )

    return call


@pytest.fixture
def write(tmp_path, picture):
    """Write rows as JSON lines; `pic.png` lies beside them."""

    def call(*rows, name="rows.jsonl"):
        (tmp_path / "pic.png").write_bytes(picture(56, 28))
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / name

    return call


def row(**changes):
    return {"images": ["pic.png"], "problem": "What?", "answer": "7"} | changes


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_of_local_files(load, tiny_rows, name):
    rows = load(name, workdir=tiny_rows.parent, target="response")
    assert len(rows) == rows.entry.rows == 24
    assert rows.entry.name == name
    assert rows.entry.dropped == {}
    first = rows.data[0]
    assert first["id"] == "q0"
    assert first["answer"] == "0"
    assert first["response"].endswith("\\boxed{0}.")
    assert [image.size for image in rows.data[2]["images"]] == [(84, 28)]


def test_both_files_hold_the_same(load, tiny_rows):
    rows = [load(n, workdir=tiny_rows.parent) for n in ("rows.jsonl", "rows.parquet")]
    assert rows[0].entry.fingerprint == rows[1].entry.fingerprint


def image_column(form, picture, folder):
    content = picture(56, 28)
    path = folder / "pic.png"
    path.write_bytes(content)
    return {
        "bytes": pa.array([content]),
        "large bytes": pa.array([content], pa.large_binary()),
        "path": pa.array(["pic.png"]),
        "absolute path": pa.array([str(path)]),
        "struct": pa.array([{"bytes": content, "path": None}]),
        "struct with a name": pa.array([{"bytes": content, "path": "elsewhere.png"}]),
        "struct with a path": pa.array([{"bytes": None, "path": "pic.png"}]),
        "list of bytes": pa.array([[content]]),
        "large list of paths": pa.array([["pic.png"]], pa.large_list(pa.string())),
        "list of structs": pa.array([[{"bytes": content, "path": None}]]),
        "fixed list": pa.array([[content]], pa.list_(pa.binary(), 1)),
    }[form]


@pytest.mark.parametrize(
    "form",
    [
        "bytes",
        "large bytes",
        "path",
        "absolute path",
        "struct",
        "struct with a name",
        "struct with a path",
        "list of bytes",
        "large list of paths",
        "list of structs",
        "fixed list",
    ],
)
def test_images_of_every_form(load, tmp_path, picture, form):
    folder = tmp_path / "deep"
    folder.mkdir()
    table = pa.table(
        {"images": image_column(form, picture, folder), "problem": ["What?"], "answer": ["7"]}
    )
    pq.write_table(table, folder / "rows.parquet")
    rows = load("deep/rows.parquet")
    assert [image.size for image in rows.data[0]["images"]] == [(56, 28)]


def test_images_that_datasets_wrote_from_pillow(load, tmp_path):
    picture = Image.new("RGB", (56, 28), "red")
    made = datasets.Dataset.from_dict({"image": [picture], "problem": ["q"], "answer": ["1"]})
    made.to_parquet(tmp_path / "rows.parquet")
    rows = load("rows.parquet", columns=Columns(images="image"))
    assert rows.data[0]["images"][0].getpixel((0, 0)) == (255, 0, 0)


def test_rows_without_images_may_stand_among_others(load, write):
    write(row(), row(images=[]), row(images=None), row(images="pic.png"))
    assert [len(r["images"]) for r in load().data] == [1, 0, 0, 1]
    write({"problem": "1+1?", "answer": 2})
    rows = load()
    assert rows.data[0]["images"] == []
    assert rows.data[0]["answer"] == "2"


def test_columns_are_mapped_and_numbers_are_texts(load, write):
    write({"q": "What?", "gold": 3.5, "pics": "pic.png"}, {"q": "And?", "gold": "x", "pics": None})
    rows = load(columns=Columns(problem="q", answer="gold", images="pics"))
    assert [r["answer"] for r in rows.data] == ["3.5", "x"]


def test_choices_and_ids_are_kept(load, write):
    write(row(id=5, choices=["a", "b"]), row(id=6, choices=None))
    assert [(r["id"], r["choices"]) for r in load().data] == [("5", ["a", "b"]), ("6", [])]
    write(row(id="x"), row(id="x"))
    assert [r["id"] for r in load().data] == ["0", "1"]


def test_a_directory_is_read_as_the_hub_reads_it(load, tmp_path, picture):
    (tmp_path / "set" / "data").mkdir(parents=True)
    (tmp_path / "set" / "pic.png").write_bytes(picture(28, 28))
    for split, answers in (("train", "12"), ("test", "3")):
        lines = "".join(
            json.dumps({"problem": "q", "answer": a, "images": "../pic.png"}) + "\n"
            for a in answers
        )
        (tmp_path / "set" / "data" / f"{split}.jsonl").write_text(lines)
    assert [r["answer"] for r in load("set").data] == ["1", "2"]
    assert [r["answer"] for r in load("set", split="test").data] == ["3"]
    with pytest.raises(DataError, match=r"no split 'validation' \(has: train, test\)"):
        load("set", split="validation")


def test_several_files_name_rows_as_each_counts_them(load, tmp_path):
    (tmp_path / "set").mkdir()
    for part, answers in (("a", ["1", "2"]), ("b", ["3", ""])):
        table = pa.table({"problem": ["q", "q"], "answer": answers})
        pq.write_table(table, tmp_path / "set" / f"{part}.parquet")
    with pytest.raises(DataError, match=r"set/b\.parquet, row 1, column 'answer': is empty"):
        load("set")


BAD_ROWS = [
    (row(answer=""), "row 1, column 'answer': is empty"),
    (row(answer="  "), "row 1, column 'answer': is empty"),
    (row(answer=None), "row 1, column 'answer': is empty"),
    (row(answer="None"), "row 1, column 'answer': is 'None'"),
    (row(answer="null"), "row 1, column 'answer': is 'null'"),
    (row(problem=""), "row 1, column 'problem': is empty"),
    (row(problem=None), "row 1, column 'problem': is empty"),
    (row(problem="<image> and <image>"), "has 2 <image> marks, but there are 1 images"),
    (row(images=[], problem="<image>?"), "has 1 <image> marks, but there are 0 images"),
    (row(images=["gone.png"]), "column 'images': image 0 is missing: there is no file .*gone.png"),
    (row(images=["pic.png", "text.png"]), "image 1 cannot be decoded: it is no image"),
    (row(images=["cut.png"]), "image 0 cannot be decoded"),
    (row(images=["cut.jpg"]), "image 0 cannot be decoded"),
    (row(images=["cut.webp"]), "image 0 cannot be decoded"),
    (row(images=["bomb.png"]), "image 0 (is too large|has 20000 x 20000 pixels)"),
    (row(images=["large.png"]), "image 0 has 10000 x 10000 pixels, more than 89478485: scale it"),
    (row(images=["folder"]), "is missing: .* is a directory"),
    (row(images=[None]), "image 0 is null"),
]


@pytest.mark.parametrize(("bad", "words"), BAD_ROWS)
def test_a_wrong_row_is_named(load, write, tmp_path, picture, bad, words):
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "cut.png").write_bytes(picture(56, 56)[:2000])
    for kind in ("jpg", "webp"):
        Image.effect_noise((80, 80), 50).convert("RGB").save(tmp_path / f"whole.{kind}")
        content = (tmp_path / f"whole.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(content[: len(content) // 2])
    for name, side in (("bomb", 20_000), ("large", 10_000)):
        if f"{name}.png" in bad["images"] or ():
            Image.new("1", (side, side)).save(tmp_path / f"{name}.png")
    (tmp_path / "folder").mkdir()
    write(row(), bad)
    with pytest.raises(DataError, match=words) as caught:
        load()
    assert caught.value.code is ErrorCode.DATASET_INVALID
    assert str(caught.value).startswith(f"{FIELD}: rows.jsonl, row 1, column ")


def test_a_jpeg_with_bytes_after_its_end_is_whole(load, write, tmp_path):
    write(row(images=["odd.jpg"]))
    Image.new("RGB", (60, 60)).save(tmp_path / "odd.jpg")
    with (tmp_path / "odd.jpg").open("ab") as stream:
        stream.write(b"\0" * 10_000)
    assert len(load()) == 1


def test_an_empty_response_is_named(load, write):
    write(row(response="r"), row(response=" "))
    with pytest.raises(DataError, match=r"row 1, column 'response': is empty"):
        load(target="response")


def test_an_absent_answer_beside_a_response_is_no_mistake(load, write):
    write(row(response="r"), row(response="r", answer="None"))
    assert [r["answer"] for r in load(target="response").data] == ["7", None]


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("gone.jsonl", ErrorCode.DATASET_NOT_FOUND, "there is no file .*gone.jsonl"),
        ("./gone", ErrorCode.DATASET_NOT_FOUND, "there is no file"),
        ("a/b/c", ErrorCode.DATASET_NOT_FOUND, "there is no file"),
        ("rows.txt", ErrorCode.DATASET_INVALID, "rows.txt is none of .parquet, .jsonl, .json"),
        ("empty.jsonl", ErrorCode.DATASET_INVALID, "no column|is empty"),
        ("empty.parquet", ErrorCode.DATASET_INVALID, "is empty"),
        ("broken.jsonl", ErrorCode.DATASET_INVALID, "line 2 is not JSON"),
        ("list.jsonl", ErrorCode.DATASET_INVALID, "line 1 is not an object"),
        ("broken.parquet", ErrorCode.DATASET_INVALID, "cannot be read"),
        ("nothing", ErrorCode.DATASET_INVALID, "nothing"),
    ],
)
def test_a_data_set_that_cannot_be_read(load, tmp_path, name, code, words):
    (tmp_path / "rows.txt").write_text("x")
    (tmp_path / "empty.jsonl").write_text("")
    schema = pa.schema({"problem": pa.string(), "answer": pa.string()})
    pq.write_table(schema.empty_table(), tmp_path / "empty.parquet")
    (tmp_path / "broken.jsonl").write_text(json.dumps(row(images=[])) + "\n{\n")
    (tmp_path / "list.jsonl").write_text('"text"\n')
    (tmp_path / "broken.parquet").write_text("PAR1 and no more")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=words) as caught:
        load(name)
    assert caught.value.code is code
    assert str(caught.value).startswith(f"{FIELD}.")


def test_a_missing_column_is_named_with_those_there_are(load, write):
    write(row(question="x"))
    with pytest.raises(
        DataError, match=r"columns\.response: rows\.jsonl has no column 'response'.*problem, answer"
    ):
        load(target="response")
    with pytest.raises(DataError, match=r"columns\.images: .* no column 'pics'"):
        load(columns=Columns(images="pics"))


@pytest.mark.parametrize("name", ["image", "img", "Picture"])
def test_images_under_another_name_are_not_left_out_in_silence(load, write, name):
    write({"problem": "q", "answer": "1", name: "pic.png"})
    with pytest.raises(DataError, match=f"but one called '{name}'"):
        load()


def test_columns_of_a_foreign_type_are_named(load, tmp_path):
    table = pa.table({"problem": ["q"], "answer": [["1", "2"]], "images": [[1.5]]})
    pq.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"columns\.images: column 'images' .* holds double"):
        load("rows.parquet")
    pq.write_table(table.drop(["images"]), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"columns\.answer: the column holds list"):
        load("rows.parquet")


def test_a_hub_id_without_network_says_both_places(load):
    with pytest.raises(DataError, match=r"neither a file beside the run\.yaml nor to be had") as e:
        load("someone/some-set")
    assert e.value.code is ErrorCode.DATASET_NOT_FOUND


def test_rows_that_do_not_fit_are_dropped_and_counted(load, write, tmp_path):
    write(
        row(response="short"),
        row(response="long " * 100),
        row(response="r", problem="word " * 300),
        row(response="r", images=["pic.png"] * 8, problem="q"),
        row(response="r", images=["strip.png"]),
        row(response="r<|im_end|>"),
        row(response="r", problem="q <|image_pad|>"),
    )
    Image.new("RGB", (1000, 4)).save(tmp_path / "strip.png")
    spec_field = load(target="response")
    assert len(spec_field) == 2
    assert spec_field.entry.dropped == {
        "image_aspect_ratio": 1,
        "prompt_too_long": 1,
        "response_too_long": 1,
        "special_token": 2,
    }


def test_image_tokens_count_towards_the_prompt(load, write, conversation, processor):
    write(row(images=["pic.png"] * 3))
    tokens = data.prompt_tokens(load().data, processor, conversation)[0]
    fits = conversation.model_copy(update={"max_prompt_tokens": tokens})
    assert len(load(spec=fits)) == 1
    tight = conversation.model_copy(update={"max_prompt_tokens": tokens - 1})
    with pytest.raises(
        DataError, match=rf"prompt_too_long: 1.*maxPromptTokens.*shortest has {tokens} tokens"
    ):
        load(spec=tight)


def test_a_response_may_be_as_long_as_a_sampled_one(load, write, conversation, processor):
    """The token that ends a response counts, as it does where responses are sampled."""
    write(row(response="The sum is 12."))
    tokens = len(processor.tokenizer("The sum is 12.")["input_ids"]) + 1
    for limit, fits in ((tokens, True), (tokens - 1, False)):
        spec = conversation.model_copy(update={"max_completion_tokens": limit})
        if fits:
            assert len(load(target="response", spec=spec)) == 1
        else:
            with pytest.raises(DataError, match="maxCompletionTokens"):
                load(target="response", spec=spec)


def test_prompt_lengths_are_those_of_the_processor(
    load, write, tmp_path, picture, processor, conversation
):
    sizes = [(1, 1), (28, 28), (61, 90), (300, 50), (5, 640)]
    for number, size in enumerate(sizes):
        (tmp_path / f"{number}.png").write_bytes(picture(*size))
    write(
        *(row(images=[f"{i}.png"]) for i in range(len(sizes))),
        row(images=["0.png", "2.png"], problem="Is <image> more than <image>?"),
        row(images=[]),
    )
    rows = load().data
    exact = encode(processor, rows[:], conversation)["attention_mask"].sum(1).tolist()
    assert data.prompt_tokens(rows, processor, conversation) == exact


def test_orientation_does_not_change_the_count(load, write, tmp_path, processor, conversation):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 60)).save(tmp_path / "turned.jpg", exif=exif)
    write(row(images=["turned.jpg"]))
    rows = load().data
    assert rows[0]["images"][0].size == (60, 200)
    exact = encode(processor, rows[:], conversation)["attention_mask"].sum(1).tolist()
    assert data.prompt_tokens(rows, processor, conversation) == exact


def test_a_limit_draws_rows_with_the_seed(load, tiny_rows):
    def ids(limit, seed):
        rows = load(workdir=tiny_rows.parent, limit=limit, seed=seed)
        assert rows.entry.rows == min(limit, 24)
        return rows.data["id"][:]

    assert ids(5, 1) == ids(5, 1)
    assert ids(5, 1) != ids(5, 2)
    assert len(set(ids(5, 1))) == 5
    assert ids(100, 1) == [f"q{n}" for n in range(24)]


def test_a_limit_is_filled_with_rows_that_fit(load, write):
    write(*(row(problem="word " * 300 if n % 2 else "q") for n in range(40)))
    assert len(load(limit=10)) == 10


def test_the_fingerprint_changes_with_the_rows_alone(load, write, tmp_path, picture):
    def fingerprint(*rows):
        write(*rows)
        return load().entry.fingerprint

    same = fingerprint(row(), row(answer="8"))
    assert fingerprint(row(), row(answer="8")) == same
    assert fingerprint(row(), row(answer="9")) != same
    assert fingerprint(row(), row(answer="8", problem="Who?")) != same
    assert fingerprint(row()) != same
    (tmp_path / "other.png").write_bytes(picture(56, 28, 1))
    assert fingerprint(row(images=["other.png"]), row(answer="8")) != same


def test_a_split_is_the_same_for_the_same_seed_and_holds_every_row_once(load, tiny_rows):
    rows = load(workdir=tiny_rows.parent)
    train, held = data.split(rows, 0.25, 7)
    assert (len(train), len(held)) == (18, 6)
    assert (train.entry.rows, held.entry.rows) == (18, 6)
    assert sorted([*train.data["id"], *held.data["id"]]) == sorted(rows.data["id"])
    assert data.split(rows, 0.25, 7)[1].data["id"][:] == held.data["id"][:]
    assert data.split(rows, 0.25, 8)[1].data["id"][:] != held.data["id"][:]


@pytest.mark.parametrize(("share", "held"), [(0, 0), (0.001, 1), (0.999, 23)])
def test_a_split_leaves_a_row_on_either_side(load, tiny_rows, share, held):
    parts = data.split(load(workdir=tiny_rows.parent), share, 0)
    assert [len(part) for part in parts] == [24 - held, held]


def test_one_percent_of_the_paper_is_515_rows():
    """The released set has 51,534 rows, of which the recipe trains on 51,019."""
    table = datasets.Dataset.from_dict({"id": list(range(51_534))})
    rows = data.Rows(table, data.DatasetEntry(name="x", fingerprint="y", rows=51_534))
    assert [len(part) for part in data.split(rows, 0.01, 42)] == [51_019, 515]


def test_images_are_not_decoded_before_they_are_asked_for(load, tiny_rows, monkeypatch):
    decoded = []
    original = datasets.Image.decode_example

    def counting(self, value, **keywords):
        if isinstance(value, dict):
            decoded.append(value["bytes"])
        return original(self, value, **keywords)

    monkeypatch.setattr(datasets.Image, "decode_example", counting)
    rows = load("rows.parquet", workdir=tiny_rows.parent)
    train, _ = data.split(rows, 0.2, 0)
    assert decoded == []
    assert train.data[3]["images"]
    assert len(set(decoded)) == 1


@pytest.mark.parametrize(
    ("name", "local"),
    [("a/b", False), ("b", False), ("/a", True), ("~/a", True), ("b.json", True), ("b/", True)],
)
def test_what_looks_like_a_path(name, local):
    assert Dataset(name=name).looks_local is local


def test_a_hub_set_is_asked_for_by_what_the_spec_says(tmp_path):
    """In a process of its own, whose hub is a directory that the library resolves instead."""
    script = """
import datasets, sys
from pathlib import Path
asked = []
def load_dataset(*arguments, **keywords):
    asked.append((arguments, keywords))
    return datasets.Dataset.from_dict({"problem": ["q"], "answer": [3]})
datasets.load_dataset = load_dataset
from coldstart_trainer import sources
from coldstart.dataset import Dataset
spec = Dataset(name="o/n", revision="abc", config="c", split="s")
source = sources.read(spec, ("problem", "answer"), Path(sys.argv[1]), "f")
assert asked == [(("o/n", "c"), {"split": "s", "revision": "abc"})], asked
assert source.place(0) == "o/n, row 0"
"""
    subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], check=True, env=os.environ, timeout=120
    )
