"""What the tests of the whole command start from: the quickstart's, and a tiny model's, files."""

from quickstart_build import quickstart_build
from tiny import tiny_model, tiny_rows

__all__ = ["quickstart_build", "tiny_model", "tiny_rows"]
