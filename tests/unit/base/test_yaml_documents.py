from __future__ import annotations

import contextlib
import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blixard.base.errors import BlixardError, Problem
from blixard.base.yaml import MAX_BYTES, Mark, read_documents, write_documents


def one(text):
    (document,) = read_documents(text)
    return document


def problems(text):
    with pytest.raises(BlixardError) as caught:
        read_documents(text)
    assert caught.value.code == "INVALID"
    return [(p.line, p.column, p.message) for p in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("~", None),
        ("1", 1),
        ("-7", -7),
        ("0644", "0644"),
        ("0x1F", "0x1F"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        (".inf", ".inf"),
        ("1_000", "1_000"),
        ("12:30:00", "12:30:00"),
        ("2024-12-09", "2024-12-09"),
        ('"1"', "1"),
        ("128MiB", "128MiB"),
        ("=", "="),
    ],
)
def test_only_types_of_json(text, value):
    found = one(f"a: {text}").value["a"]
    assert (found, type(found)) == (value, type(value))


def test_several_documents_and_empty_ones():
    assert [d.value for d in read_documents("a: 1\n---\n---\nb: 2\n")] == [{"a": 1}, {"b": 2}]


def test_marks_of_values_and_keys():
    document = one("spec:\n  replicas: 3\n  list:\n  - x\n  - {a/b: 1}\n")
    assert document.marks["/spec/replicas"] == Mark(2, 13, 2, 3)
    assert document.marks["/spec/list/0"] == Mark(4, 5, 4, 5)
    assert document.marks["/spec/list/1/a~1b"] == Mark(5, 11, 5, 6)


def test_place_of_a_missing_value_is_its_parent():
    document = one("kind: VM\nspec:\n  replicas: 3\n")
    placed = document.locate(Problem("/spec/image", "missing"))
    assert (placed.line, placed.column) == (2, 1)
    unknown = document.locate(Problem("/spec/replicas", "unknown field"))
    assert (unknown.line, unknown.column) == (3, 3)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: &x 1\nb: *x\n", (1, 4), "anchors"),
        ("b: *x\n", (1, 4), "aliases"),
        ("a: !!python/object:os.system 1\n", (1, 4), "tags"),
        ("a: 1\nb: 2\na: 3\n", (3, 1), "duplicate key 'a' (first on line 1)"),
        ("a: 99999999999999999999\n", (1, 4), "out of range"),
        ("a: 1e999\n", (1, 4), "out of range"),
        ("? [1]\n: 2\n", (1, 3), "keys must be text"),
        ("a: [1,\n", (2, 1), "not valid YAML"),
        ("\ta: 1\n", (1, 1), "not valid YAML"),
    ],
)
def test_refused_with_its_place(text, place, words):
    line, column, message = problems(text)[0]
    assert (line, column) == place
    assert words in message


def test_all_problems_are_found_at_once():
    assert len(problems("a: !x 1\nb: &y 2\nc: 1\nc: 2\n")) == 3


def test_json_with_tabs_and_duplicate_keys():
    assert one('{\n\t"a":\t[1, "\\u00e9\\/"]\n}').value == {"a": [1, "é/"]}
    assert "duplicate" in problems('{"a": 1,\n"a": 2}')[0][2]


@pytest.mark.parametrize(
    "bomb", ["[" * 30_000, "[" * 200_000, "{a: " * 40_000, "- " * 30_000, "? " * 30_000]
)
def test_deep_nesting_does_not_crash(bomb):
    # In a process of its own: what is guarded against is the end of the process.
    code = (
        "import sys; from blixard.base.yaml import read_documents; from blixard.base.errors import BlixardError\n"
        "try: read_documents(sys.stdin.read())\nexcept BlixardError as e: print([p.message for p in e.problems])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], input=bomb.encode(), capture_output=True, check=True
    )
    assert b"nested deeper than 64" in ran.stdout


def test_depth_at_the_bound_is_accepted():
    assert read_documents("[" * 64 + "]" * 64)
    assert "nested deeper" in problems("[" * 66 + "]" * 66)[0][2]


def test_too_many_values():
    assert "100,000 values" in problems("[" + "1," * 100_001 + "]")[0][2]


def test_alias_bomb_is_refused_early():
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"] + [
        f"{b}: &{b} [*{a},*{a},*{a},*{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    assert problems("\n".join(lines))


def test_too_large_and_not_text():
    with pytest.raises(BlixardError, match="TOO_LARGE"):
        read_documents(b"a" * (MAX_BYTES + 1))
    assert problems(b"a: 1\nb: \xff\n")[0][0] == 2


def test_byte_order_mark_is_ignored():
    assert read_documents(b"\xef\xbb\xbfa: 1")[0].value == {"a": 1}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(
        st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), max_size=12
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(categories=("L", "N", "P")), max_size=8), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_written_yaml_reads_back(value):
    assert one(write_documents([{"value": value}])).value == {"value": value}


@given(JSON)
@settings(max_examples=100, deadline=None)
def test_json_reads_as_json(value):
    assert one(json.dumps({"v": value}, ensure_ascii=False)).value == {"v": value}


@given(st.text("[]{}:,-?&*!|>'\"# \n\tab01", max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(BlixardError):
        assert isinstance(read_documents(text), list)
