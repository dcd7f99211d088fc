"""JSON of others: what is let through, and that all else ends in a ValueError."""

import pytest

from coldstart.files import json_lines
from coldstart.foreign import MAX_DEPTH, parsed


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a": [1, 2.5, null, true, "x"]}', {"a": [1, 2.5, None, True, "x"]}),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1e999", float("inf")),
        (r'"\ud83d\ude00"', "\U0001f600"),
        (r'{"a": "x\ud800", "\udfff": 1}', {"a": "x?", "?": 1}),
        ('"' + "[" * 500 + '"', "[" * 500),
        (b'"\xc3\xa9"', "é"),
    ],
)
def test_what_can_be_worked_with_is_let_through(text, found):
    assert parsed(text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        (b"\xff", "utf-8"),
        ("[" * 100_000, "nested more than"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than"),
        ("9223372036854775808", "a whole number of 19 digits"),
        ("9" * 5000, "a whole number of 5000 digits"),
    ],
)
def test_all_else_is_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        parsed(text)


def test_lines_that_nobody_of_ours_wrote_are_passed_over(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join(['{"a": 1}', "[" * 100_000, f'{{"a": {"9" * 5000}}}', '{"a": 2}']))
    assert list(json_lines(path)) == [{"a": 1}, {"a": 2}]
