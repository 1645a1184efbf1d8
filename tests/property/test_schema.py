"""The walk over types and ``msgspec.convert`` accept the same documents."""

from typing import Annotated, Any, Literal

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec import Meta

from blixard.base.schema import collect_problems


class Inner(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """A nested document."""

    max_count: Annotated[int, Meta(ge=1, le=4)]
    ratio: Annotated[float, Meta(gt=0)] = 1.0


class Loose(msgspec.Struct):
    """Unknown fields are ignored."""

    flag: bool = False


class Outer(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Every form of type that the specs use."""

    name: Annotated[str, Meta(min_length=1, max_length=3, pattern="^[ab]+$")]
    inner: Inner | None = None
    loose: Loose = msgspec.field(default_factory=Loose)
    mode: Literal["on", "off"] = "on"
    level: Literal[1, 3] = 1
    many: tuple[Inner, ...] = ()
    some: Annotated[list[str], Meta(max_length=2)] = []
    labels: dict[str, str] = {}
    size: int | str = 0
    free: dict[str, Any] = {}


LEAVES = st.sampled_from(
    [None, True, False, 0, 1, 3, 5, -1, 1.0, 3.0, 0.5, "", "a", "ab", "abab", "x", "on", "1"]
)
KEYS = st.sampled_from(["name", "inner", "maxCount", "max_count", "ratio", "flag", "mode", "k"])
ANY = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
INNER = st.fixed_dictionaries({"maxCount": LEAVES}, optional={"ratio": LEAVES, "more": LEAVES})
OUTER = st.fixed_dictionaries(
    {"name": st.sampled_from(["a", "ab", "", "c"]) | ANY},
    optional={
        "inner": INNER | ANY,
        "loose": st.dictionaries(st.sampled_from(["flag", "more"]), LEAVES) | ANY,
        "mode": LEAVES,
        "level": LEAVES,
        "many": st.lists(INNER, max_size=2) | ANY,
        "some": st.lists(LEAVES, max_size=3),
        "labels": st.dictionaries(KEYS, LEAVES, max_size=2),
        "size": ANY,
        "free": ANY,
        "extra": LEAVES,
    },
)


def converts(value):
    try:
        msgspec.convert(value, Outer)
    except msgspec.ValidationError:
        return False
    return True


@given(OUTER | ANY)
@example({"name": "a", "level": 1.0})
@example({"name": "a", "size": 1.5})
@settings(deadline=None, max_examples=500)
def test_both_accept_the_same_documents(value):
    assert (collect_problems(Outer, value) == []) == converts(value)
