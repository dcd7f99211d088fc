"""Published benchmarks from files in their released layouts, and what is wrong with such files."""

import base64
import json

import datasets
import pytest
from released import GEOMETRY3K, MATHVERSE, MATHVISION, MATHVISTA, WEMATH
from tiny import png

from coldstart.benchmarks import published
from coldstart.evaluation import Benchmark
from coldstart_trainer import data
from coldstart_trainer.data import DataError

FIELD = "spec.evaluation.benchmarks[0].dataset"
IMAGE = datasets.Image()

# Rows, the column of their picture, and how the hub holds it.
LAYOUTS = {
    "mathvista": (MATHVISTA, "decoded_image", IMAGE),
    "mathverse": (MATHVERSE, "image", IMAGE),
    "mathvision": (MATHVISION, "decoded_image", IMAGE),
    "wemath": (WEMATH, "image_path", IMAGE),
    "geometry3k": (GEOMETRY3K, "images", datasets.List(IMAGE)),
}
PICTURE = png(56, 28)


def parquet(path, name, rows=None):
    """Rows as the hub has them: the picture embedded, and for some its name beside it."""
    known, column, kind = LAYOUTS[name]
    rows = [dict(row) for row in (known if rows is None else rows)]
    value = {"bytes": PICTURE, "path": None}
    for row in rows:
        row[column] = row.get(column, [value] if column == "images" else value)
        if column == "decoded_image":
            row["image"] = "images/1.jpg"
    made = datasets.Dataset.from_list(rows)
    made.cast_column(column, kind).to_parquet(path)
    return path


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def load(tmp_path, processor, conversation):
    def call(name, path, **dataset):
        item = Benchmark.parse({"name": name, "dataset": {"name": str(path), **dataset}})
        return data.load(
            item.rows,
            target="answer",
            conversation=conversation.model_copy(update={"max_prompt_tokens": 2000}),
            processor=processor,
            workdir=tmp_path,
            seed=0,
            field=FIELD,
            known=published(item.name),
        )

    return call


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_hubs_layout_becomes_our_rows(load, tmp_path, name, caplog):
    rows = load(name, parquet(tmp_path / "x.parquet", name))
    released = LAYOUTS[name][0]
    assert len(rows) == len(released)
    assert [row["answer"].strip(" ") for row in rows.data] == [
        row["answer"].replace("\u63b3", "°") for row in released
    ]
    assert all(row["images"][0].size == (56, 28) for row in rows.data)
    assert all(row["problem"].count("<image>") in (0, 1) for row in rows.data)
    assert "the results are partial" in caplog.text


def test_what_metrics_and_grader_need_is_in_the_rows(load, tmp_path):
    rows = load("mathvista", parquet(tmp_path / "x.parquet", "mathvista")).data
    assert rows["choices"][0] == ["10", "12", "14"]
    assert rows["answer_type"][:] == [None, "integer", "float", "list"]
    assert (rows["precision"][2], rows["unit"][1]) == (1, "years")
    assert rows["category"][0] == "math-targeted-vqa"
    rows = load("wemath", parquet(tmp_path / "y.parquet", "wemath")).data
    assert rows["step"][2] == "2steps_multi"
    assert rows["cluster"][0] == "2steps/1"
    assert rows["id"][3] == "1/3steps_1"


@pytest.mark.parametrize("form", ["path", "base64", "data uri", "struct"])
def test_pictures_come_in_every_released_form(load, tmp_path, form):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(PICTURE)
    text = base64.b64encode(PICTURE).decode()
    value = {
        "path": "images/1.jpg",
        "base64": text,
        "data uri": f"data:image/png;base64,{text}",
        "struct": {"path": "images/1.jpg"},
    }[form]
    rows = [row | {"image": value} for row in MATHVISION]
    found = load("mathvision", jsonl(tmp_path / "test.jsonl", rows))
    assert [row["images"][0].size for row in found.data] == [(56, 28)] * 3


def test_a_directory_with_the_hubs_layout_is_read_by_the_benchmarks_split(load, tmp_path):
    (tmp_path / "copy" / "data").mkdir(parents=True)
    parquet(tmp_path / "copy" / "data" / "testmini-00000-of-00001.parquet", "wemath")
    assert len(load("wemath", tmp_path / "copy")) == 7


def test_a_draw_takes_clusters_as_wholes(load, tmp_path):
    rows = [
        {**row, "sample_index": f"{number}-{row['sample_index']}", "problem_index": str(number)}
        for number in range(6)
        for row in MATHVERSE
    ]
    found = load("mathverse", parquet(tmp_path / "x.parquet", "mathverse", rows), limit=6)
    clusters = found.data["cluster"][:]
    assert sorted(clusters.count(name) for name in set(clusters)) == [3, 3]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("wemath", lambda rows: [r | {"answer": ""} for r in rows], "no answers at all.*testmini"),
        ("wemath", lambda rows: [rows[0] | {"answer": ""}, *rows[1:]], r"1 of 7 .*row 0"),
        ("wemath", lambda rows: [r | {"option": None} for r in rows], "7 of 7 rows are wrong"),
        ("mathvista", lambda rows: [rows[0] | {"choices": None}, *rows[1:]], "row 0: choices"),
        ("wemath", lambda rows: [{"q": r["question"]} for r in rows], "no column ID, key"),
        ("wemath", lambda rows: [*rows, rows[0]], "1 of 8 rows repeat another row's ID"),
        ("mathverse", lambda rows: rows * 1314, "3,942 rows, but MathVerse testmini has 3,940"),
    ],
)
def test_a_wrong_set_is_told_with_its_count(load, tmp_path, name, change, message):
    rows = [row | {LAYOUTS[name][1]: "1.png"} for row in LAYOUTS[name][0]]
    (tmp_path / "1.png").write_bytes(PICTURE)
    path = jsonl(tmp_path / "x.jsonl", change(rows))
    with pytest.raises(DataError, match=message) as error:
        load(name, path)
    assert str(error.value).startswith(FIELD)


def test_the_hubs_set_must_be_whole(load, tmp_path, monkeypatch):
    asked = []

    def hub(*arguments, **keywords):
        asked.append((*arguments, *keywords.values()))
        return datasets.Dataset.from_parquet(str(parquet(tmp_path / "h.parquet", "mathverse")))

    monkeypatch.setattr(datasets, "load_dataset", hub)
    with pytest.raises(DataError, match=r"has 3 rows, but MathVerse testmini has 3,940"):
        load("mathverse", "AI4Math/MathVerse", revision="abc")
    assert asked == [("AI4Math/MathVerse", "testmini", "testmini", "abc")]


@pytest.mark.parametrize("missing", [None, "gone.png"])
def test_missing_pictures_are_counted(load, tmp_path, missing):
    (tmp_path / "1.png").write_bytes(PICTURE)
    rows = [row | {"image_path": "1.png"} for row in WEMATH]
    rows[2]["image_path"] = rows[5]["image_path"] = missing
    with pytest.raises(DataError, match=r"2 of 7 rows of We-Math .*row 2.*row 5"):
        load("wemath", jsonl(tmp_path / "x.jsonl", rows))


def test_a_set_without_a_picture_column_is_refused(load, tmp_path):
    with pytest.raises(DataError, match="no column decoded_image or image"):
        load("mathvision", jsonl(tmp_path / "x.jsonl", MATHVISION))
