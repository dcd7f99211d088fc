"""Models and data sets are data: their code is not run, and their pickles are not read."""

import json
import shutil

import pytest
import torch
from stage_attempts import order

from coldstart.spec import Dataset
from coldstart_trainer import inputs, sources
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
