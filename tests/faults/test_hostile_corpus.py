"""Every input of the corpus with its parser: an end, the documented error or none, no escape."""

import hostile_models
import hostile_parsers
import hostile_storage
import pytest
from hostile_corpus import CORPUS, kept, slug
from hostile_watch import Watch

ALL = (*hostile_parsers.PARSERS, *hostile_storage.PARSERS, *hostile_models.PARSERS)
PARSERS = {slug(each.name): each for each in ALL}
CASES = [
    pytest.param(parser, data, id=f"{folder}/{name}")
    for folder, parser in PARSERS.items()
    for name, data in kept(parser.name).items()
]

# Pillow warns of what is wrong with an image.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

watch = Watch()


@pytest.mark.parametrize(("parser", "data"), CASES)
def test_what_once_broke_a_parser_does_so_no_longer(parser, data, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    parser.prepare(home)
    watch(parser.feed, parser.seeds()[0], home, parser.documented)  # loads what is loaded once
    seen = watch(parser.feed, data, home, parser.documented)
    assert [each for each in seen.faults if not (parser.starts and "Popen" in each)] == []


def test_every_folder_of_the_corpus_has_its_parser():
    assert {path.name for path in CORPUS.iterdir()} <= PARSERS.keys()
