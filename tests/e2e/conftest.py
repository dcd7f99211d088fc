"""What the tests of the whole command start from: the quickstart's, and a tiny model's, files."""

from chromium import browser
from quickstart_build import quickstart_build
from tiny import tiny_model, tiny_rows

__all__ = ["browser", "quickstart_build", "tiny_model", "tiny_rows"]
