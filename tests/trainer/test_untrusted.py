"""Models and data sets are data: their code is not run, and their pickles are not read."""

import json
import os
import shutil

import pytest
import torch
from stage_attempts import order

from coldstart.spec import Dataset
from coldstart_trainer import images, inputs, plain, sources
from coldstart_trainer import model as models
from coldstart_trainer.model import ModelError
from coldstart_trainer.sources import DataError


class Pickled:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def ran(tmp_path):
    """A file that is there once foreign code has run."""
    return tmp_path / "ran"


@pytest.fixture
def directory(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def pickle_in(directory, ran):
    torch.save({"weight": Pickled(ran)}, directory / "pytorch_model.bin")
    # The danger is real: whoever reads it as it is runs it.
    torch.load(directory / "pytorch_model.bin", weights_only=False)
    assert ran.exists()
    ran.unlink()


def test_pickled_weights_are_refused_before_anything_is_loaded(directory, tmp_path, ran):
    (directory / "model.safetensors").unlink()
    pickle_in(directory, ran)
    with pytest.raises(inputs.CheckpointError, match=r"pickled weights .* are never loaded: save"):
        inputs.resolve(order("sft", tmp_path / "runs", directory, "rows.jsonl"))
    assert not ran.exists()


def test_pickled_weights_beside_foreign_safetensors_are_not_read(directory, ran):
    (directory / "model.safetensors").rename(directory / "adapter.safetensors")
    pickle_in(directory, ran)
    with pytest.raises(ModelError, match=r"the weights cannot be loaded: .*safetensors"):
        models.load_model(directory, precision="fp32")
    assert not ran.exists()


def test_code_in_a_models_directory_is_not_run(directory, ran, conversation):
    (directory / "theirs.py").write_text(f"open(r'{ran}', 'w')\nclass Theirs: pass\n")
    for file, names in {
        "config.json": ("AutoConfig", "AutoModelForImageTextToText"),
        "tokenizer_config.json": ("AutoTokenizer",),
        "processor_config.json": ("AutoProcessor", "AutoImageProcessor"),
    }.items():
        document = json.loads((directory / file).read_text())
        document["auto_map"] = dict.fromkeys(names, "theirs.Theirs")
        if "AutoTokenizer" in names:
            document["auto_map"] = {"AutoTokenizer": ["theirs.Theirs", "theirs.Theirs"]}
        (directory / file).write_text(json.dumps(document))
    models.load_processor(directory, conversation)
    models.load_model(directory, precision="fp32")
    assert not ran.exists()


def test_a_data_sets_script_is_not_run(tmp_path, ran):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.py").write_text(f"open(r'{ran}', 'w')\n")
    with pytest.raises(DataError, match=r"rows"):
        sources.read(Dataset(name="./rows"), ("problem",), tmp_path, "spec.sft.dataset")
    assert not ran.exists()


def written(folder, **values):
    row = {"problem": "p", "answer": "1", "response": "\\boxed{1}"} | values
    (folder / "rows.jsonl").write_text(json.dumps(row) + "\n")
    return Dataset(name="./rows.jsonl")


@pytest.mark.parametrize("path", ["../secret.png", "/etc/secret.png", "a/../../secret.png"])
def test_a_row_names_no_image_of_elsewhere(tmp_path, picture, path):
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret.png").write_bytes(picture(8, 8))
    with pytest.raises(DataError, match=r"names the image .* move or link it there"):
        sources.read(written(home, images=[path]), ("problem",), home, "spec.sft.dataset")
    (home / "linked").symlink_to(tmp_path)
    source = sources.read(
        written(home, images=["linked/secret.png"]), ("problem",), home, "spec.sft.dataset"
    )
    assert images.facts(source.table["images"][0].as_py()[0]).width == 8


@pytest.mark.parametrize("name", ["../pictures", "/absolute"])
def test_the_spec_may_have_rows_name_images_of_another_directory(tmp_path, picture, name):
    home, pictures = tmp_path / "home", tmp_path / "pictures"
    for folder in (home, pictures / "of a split"):
        folder.mkdir(parents=True)
    (pictures / "of a split" / "1.png").write_bytes(picture(8, 8))
    (tmp_path / "secret.png").write_bytes(picture(8, 8))
    name = name.replace("/absolute", str(pictures))
    for path in ("of a split/1.png", str(pictures / "of a split" / "1.png")):
        given = written(home, images=[path]).model_copy(update={"image_dir": name})
        source = sources.read(given, ("problem",), home, "spec.sft.dataset")
        assert images.facts(source.table["images"][0].as_py()[0]).width == 8
    outside = written(home, images=["../secret.png"]).model_copy(update={"image_dir": name})
    with pytest.raises(DataError, match="which is in none of"):
        sources.read(outside, ("problem",), home, "spec.sft.dataset")


def test_a_directory_of_images_that_is_not_there_is_named(tmp_path):
    given = written(tmp_path, images=["1.png"]).model_copy(update={"image_dir": "pictures"})
    with pytest.raises(
        DataError, match=r"spec\.sft\.dataset\.imageDir: there is no directory .*/pictures"
    ):
        sources.read(given, ("problem",), tmp_path, "spec.sft.dataset")


def test_an_image_that_is_a_pipe_keeps_nobody_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(images.ImageError, match="is no plain file"):
        images.facts({"bytes": None, "path": str(tmp_path / "pipe.png")})


@pytest.mark.parametrize("path", ["a\0b", "a" * 5000])
def test_an_image_whose_name_no_file_can_have_is_refused_by_its_row(tmp_path, path):
    with pytest.raises(images.ImageError, match="cannot be read"):
        images.facts({"bytes": None, "path": str(tmp_path / path)})


def test_no_image_is_handed_to_ghostscript():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with pytest.raises(images.ImageError, match="no image of a known kind"):
        images.facts({"bytes": postscript, "path": None})


@pytest.mark.parametrize("answer", [10**20, [10**20], {"a": 10**20}])
def test_a_number_beyond_64_bits_is_a_text_or_refused(tmp_path, answer):
    dataset = written(tmp_path, answer=answer)
    if isinstance(answer, int):
        source = sources.read(dataset, ("problem",), tmp_path, "spec.sft.dataset")
        assert source.table["answer"][0].as_py() == str(answer)
        return
    with pytest.raises(DataError, match="cannot be read"):
        sources.read(dataset, ("problem",), tmp_path, "spec.sft.dataset")


@pytest.mark.parametrize("files", ["../*.jsonl", "/etc/*.jsonl", "http://127.0.0.1:1/x.jsonl"])
def test_a_card_names_no_data_of_elsewhere(tmp_path, files):
    folder = tmp_path / "set"
    folder.mkdir()
    written(tmp_path)
    header = json.dumps({"configs": [{"config_name": "default", "data_files": files}]})
    (folder / "README.md").write_text(f"---\n{header}\n---\n")
    with pytest.raises(DataError, match=r"its card names .* which is elsewhere"):
        sources.read(Dataset(name="./set"), ("problem",), tmp_path, "spec.sft.dataset")


@pytest.mark.parametrize(
    ("file", "document", "message"),
    [
        ("model.safetensors.index.json", {"weight_map": {"a": "../x"}}, "no file beside it"),
        ("model.safetensors.index.json", {"weight_map": {"a": "/etc/x"}}, "no file beside it"),
        ("adapter_config.json", {"base_model_name_or_path": "/etc"}, "merge the two"),
    ],
)
def test_a_models_directory_leads_nowhere_else(directory, file, document, message):
    (directory / file).write_text(json.dumps(document))
    with pytest.raises(ModelError, match=message):
        plain.require_plain(directory)


def changed(directory, **values):
    config = json.loads((directory / "config.json").read_text())
    config["text_config"] |= values
    (directory / "config.json").write_text(json.dumps(config))


def test_no_code_of_the_hub_is_run_for_attention(directory):
    changed(directory, _attn_implementation="kernels-community/flash-attn")
    with pytest.raises(ModelError, match="code of the hub"):
        plain.require_plain(directory)


@pytest.mark.parametrize("key", ["num_hidden_layers", "vocab_size"])
def test_a_config_of_a_model_that_is_not_there_is_refused_before_it_is_made(directory, key):
    changed(directory, **{key: 10**9})
    with pytest.raises(ModelError, match=r"layers|describes a model of"):
        models.load_model(directory, precision="fp32")


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10000000000 }}",
        "{% for %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    ],
)
def test_a_chat_template_that_does_not_end_well_is_refused(directory, conversation, template):
    (directory / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match="its chat template or tokenizer cannot be used"):
        models.load_processor(directory, conversation)


@pytest.mark.parametrize("text", ["null", "[" * 5000, "[]", '{"added_tokens": 5}'])
def test_a_tokenizer_that_breaks_the_library_is_named(directory, conversation, text):
    (directory / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match="the processor cannot be loaded"):
        models.load_processor(directory, conversation)
