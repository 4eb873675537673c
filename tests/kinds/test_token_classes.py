"""Classes of tokens: Python by Python's own tokenizer, prose by lists of words."""

from __future__ import annotations

import pytest

from infra_lib.kinds.tokens import CLASSES, CONNECTORS, character_classes, token_classes

PROGRAM = """Therefore sort it.
```python
def f(x):
    # so wait
    return [v + 10 for v in x if v != 3]
```
Done, so 4."""


def classes_of(text: str, *pieces: str) -> list[str]:
    """Return the class of each piece, found one after the other."""
    offsets, at = [], 0
    for piece in pieces:
        start = text.index(piece, at)
        offsets.append((start, at := start + len(piece)))
    return [CLASSES[k] for k in token_classes(offsets, text)]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (("Therefore", " sort", "."), ["logic connector", "other", "other"]),
        (
            ("```python\n", "def", " f", "(", "x", ")", ":"),
            ["structural syntax"] * 2 + ["name"] + ["structural syntax", "name"] + ["structural syntax"] * 2,
        ),
        (("\n    ", " return", " ["), ["structural syntax"] * 3),
        (("# so wait",), ["other"]),
        (
            ("v", " +", " 10", " for", " in", " if", " !=", " 3", "]"),
            [
                "name",
                "operator",
                "number",
                "structural syntax",
                "structural syntax",
                "structural syntax",
                "operator",
                "number",
                "structural syntax",
            ],
        ),
        (
            ("]\n```", "\nDone", ",", " so", " 4"),
            ["structural syntax", "other", "other", "logic connector", "number"],
        ),
    ],
)
def test_pieces_of_a_response_have_their_class(pieces, expected) -> None:
    assert classes_of(PROGRAM, *pieces) == expected


@pytest.mark.parametrize(
    ("text", "piece", "expected"),
    [
        ("so 12 + 4 = 16", "+", "operator"),
        ("so x - 5", "-", "operator"),
        ("x-5", "-", "operator"),
        ("double-check it", "-", "other"),
        ("a\n- item", "-", "other"),
        ("it costs 1,234.50 now", "1,234.50", "number"),
        ("Wait, stop", "Wait", "logic connector"),
        ("if it is", "if", "other"),
        ("naïve", "naïve", "other"),
        ("so x-y is 3", "-", "operator"),
        ("- item", "-", "other"),
        ("  - item", "-", "other"),
        ("a **bold** word", "**", "other"),
        ("<think>so", "<", "other"),
        ("2 ** 3", "**", "other"),
        ("2 * 3", "*", "operator"),
    ],
)
def test_prose(text: str, piece: str, expected: str) -> None:
    assert classes_of(text, piece) == [expected]


def test_words_of_expressions_are_no_connectors() -> None:
    assert not CONNECTORS & {"if", "else", "and", "or", "not", "in", "is", "for", "lambda"}


def test_the_end_token_is_a_class_of_its_own() -> None:
    assert [CLASSES[k] for k in token_classes([(0, 2), (2, 2)], "ab")] == ["other", "end"]


@pytest.mark.parametrize(
    "body",
    ["def f(:\n  'open\n", "  \t mixed\n\tindent\n", "x = (1,\n", "", "\x00\x01\n", "é = 1\n", "x = '''\n"],
)
def test_what_is_no_python_is_sorted_all_the_same(body: str) -> None:
    text = f"so\n```python\n{body}```\nthus"
    found = character_classes(text)
    assert len(found) == len(text)
    assert CLASSES[found[0]] == CLASSES[found[-1]] == "logic connector"


def test_later_tokens_of_one_character_are_no_end() -> None:
    offsets = [(0, 2), (2, 3), (3, 3), (3, 3), (3, 4), (4, 4)]
    assert [CLASSES[k] for k in token_classes(offsets, "so🙂7")] == [
        "logic connector",
        *["other"] * 3,
        "number",
        "end",
    ]


def test_other_ends_of_lines_do_not_shift_a_program() -> None:
    text = "```python\ns = 'a\u2028b\x0cc'\nreturn s\n```"
    assert classes_of(text, "return", " s") == ["structural syntax", "name"]


def test_a_formatted_string_is_a_string() -> None:
    assert classes_of("```python\nx = f'{y + 1}'\n```", "f'{", "y", "+", "1") == ["other"] * 4


def test_a_block_in_another_language_is_no_python() -> None:
    assert classes_of("```text\ndef 4\n```", "def", " 4") == ["other", "other"]


def test_an_open_block_goes_to_the_end() -> None:
    assert classes_of("```python\nreturn 3", "return", " 3") == ["structural syntax", "number"]
