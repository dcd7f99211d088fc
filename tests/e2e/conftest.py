"""What the tests of the whole command start from: the tiny model and its rows."""

from tiny import tiny_model, tiny_rows

__all__ = ["tiny_model", "tiny_rows"]
