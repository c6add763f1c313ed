import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.kernel.nesting import count_elements, too_deep

values = st.recursive(
    st.none() | st.integers() | st.text(st.sampled_from('[]{},"\\a'), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.sampled_from('[{"\\'), max_size=2), inner, max_size=3)
    ),
    max_leaves=10,
)


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return 1 + max(map(depth_of, value), default=0)
    return 0


@settings(max_examples=150, deadline=None)
@given(values=st.lists(values, min_size=1, max_size=4))
def test_depth_and_elements_are_those_of_the_parsed_text(values: list[Any]) -> None:
    text = json.dumps(values).encode()
    depth = depth_of(values)
    assert count_elements(text, depth) == len(values)
    assert count_elements(text, depth - 1) is None


@pytest.mark.parametrize("padding", range(4_080, 4_100))
def test_a_string_may_end_in_another_piece(padding: int) -> None:
    text = json.dumps(["x" * padding + '"[[\\', [[]], "]", [1, 2]]).encode()
    assert count_elements(text, 3) == 4
    assert count_elements(text, 2) is None


def test_a_string_may_fill_pieces_of_its_own() -> None:
    text = json.dumps([[["[" * 20_000, 1]], 2]).encode()
    assert count_elements(text, 3) == 2
    assert count_elements(text, 2) is None


@pytest.mark.parametrize(("levels", "deep"), [(512, False), (513, True)])
def test_513_levels_are_too_deep(levels: int, deep: bool) -> None:
    text = b"[" * levels + b"]" * levels
    assert too_deep(text, 0, 0) is deep
    assert too_deep(b'{"a":1}\n' * 600 + text, 0, 0) is deep


def test_many_shallow_brackets_are_not_deep() -> None:
    assert not too_deep(b"[" + b'{"a":[1,"["]},' * 5_000 + b"1]", 0, 0)


@pytest.mark.parametrize("inner", [1, 5, 8, 9, 30])
def test_the_deepest_place_is_found_behind_many_less_deep(inner: int) -> None:
    """Pieces that cannot be too deep are passed over; the one that is must not be."""
    like = b"[" * inner + b"]" * inner + b","
    deeper = b"[" * (inner + 9) + b"]" * (inner + 9)
    text = b"[[" + like * 20_000 + deeper + b"]" + b",0" * 3_000 + b"]"
    assert count_elements(text, 2 + inner + 9) == 3_001
    assert count_elements(text, 2 + inner + 8) is None


def test_time_is_linear_in_the_text() -> None:
    """Quadratic time would take minutes: every piece stands at the greatest depth."""
    text = b"[" * 510 + b"[]," * 300_000 + b"1" + b"]" * 510
    started = time.process_time()
    assert count_elements(text) == 1
    assert time.process_time() - started < 5
