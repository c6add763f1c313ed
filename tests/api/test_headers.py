import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowd.api.decoding import ContentCoding
from flowd.api.headers import (
    KEY_AHEAD_MS_MAX,
    IdempotencyKey,
    accepted_format,
    body_format,
    content_coding,
    idempotency_key,
    query_parameters,
)
from flowd.api.problems import MALFORMED_REQUEST, Problem
from flowd.errors import BadQuery
from flowd.kernel.interface import BodyFormat
from flowd.query import AnswerFormat

NOW_MS = 1_800_000_000_000
KEY = uuid.UUID(int=(NOW_MS << 80) | (7 << 76) | (2 << 62) | 12345)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (None, BodyFormat.JSON),
        ("application/json", BodyFormat.JSON),
        ("APPLICATION/JSON ;charset=UTF8", BodyFormat.JSON),
        ("application/x-ndjson; a=b;", BodyFormat.NDJSON),
    ],
)
def test_content_types_are_read_without_regard_to_case(
    content_type: str | None, expected: BodyFormat
) -> None:
    assert body_format(content_type) == expected


@pytest.mark.parametrize("value", ["", "text/json", "application/json, text/plain", "\udcff"])
def test_other_content_types_are_415(value: str) -> None:
    with pytest.raises(Problem) as raised:
        body_format(value)

    assert raised.value.status == 415
    assert raised.value.encode("id")


def test_no_content_coding_is_identity() -> None:
    assert content_coding(None) == ContentCoding.IDENTITY
    assert content_coding("") == ContentCoding.IDENTITY


def test_codings_on_top_of_each_other_are_refused() -> None:
    with pytest.raises(Problem, match="'gzip, zstd' is not taken"):
        content_coding("gzip, zstd")


def test_a_key_is_its_sixteen_bytes_and_its_time() -> None:
    expected = IdempotencyKey(KEY.bytes, NOW_MS)

    assert idempotency_key([str(KEY)], NOW_MS) == expected
    assert idempotency_key([f'"{KEY}"'], NOW_MS) == expected
    assert idempotency_key([str(KEY).upper()], NOW_MS) == expected


def test_a_key_may_be_a_little_ahead_of_the_clock() -> None:
    assert idempotency_key([str(KEY)], NOW_MS - KEY_AHEAD_MS_MAX)
    with pytest.raises(Problem, match="300 s in the future"):
        idempotency_key([str(KEY)], NOW_MS - KEY_AHEAD_MS_MAX - 1)


@pytest.mark.parametrize(
    "value",
    ["", KEY.hex, f"{{{KEY}}}", f"'{KEY}'", f'{KEY}"', f"urn:uuid:{KEY}", str(uuid.uuid4())],
)
def test_what_is_no_uuid_of_version_7_is_no_key(value: str) -> None:
    with pytest.raises(Problem, match="must be one UUIDv7"):
        idempotency_key([value], NOW_MS)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, AnswerFormat.JSON),
        ("", AnswerFormat.JSON),
        ("application/*", AnswerFormat.JSON),
        ("text/csv;q=0.1, */*;q=0.01", AnswerFormat.CSV),
        ("text/csv;q=0, application/x-ndjson;q=0.001", AnswerFormat.NDJSON),
        ("TEXT/CSV; Q=1.0", AnswerFormat.CSV),
        ("application/json;q=0.8;v=1, application/x-ndjson;v=1;q=0.9", AnswerFormat.NDJSON),
    ],
)
def test_the_best_accepted_format_wins(accept: str | None, expected: AnswerFormat) -> None:
    assert accepted_format(accept) == expected


@given(st.text())
def test_any_accept_header_chooses_some_format(accept: str) -> None:
    assert accepted_format(accept) in AnswerFormat


def test_parameters_come_in_their_order_decoded() -> None:
    assert query_parameters("a=1&&b&a=%C3%A9+%2B&c=x=y&%61=") == [
        ("a", "1"),
        ("b", ""),
        ("a", "é +"),
        ("c", "x=y"),
        ("a", ""),
    ]


@given(st.text(st.characters(codec="utf-8", exclude_characters="&=%")))
def test_unescaped_text_is_itself(text: str) -> None:
    assert query_parameters(f"a={text}") == [("a", text.replace("+", " "))]


@pytest.mark.parametrize("text", ["%", "%4", "%zz", "%c3", "%ed%a0%80", "\udcc3"])
def test_what_does_not_decode_to_utf_8_is_refused(text: str) -> None:
    with pytest.raises(BadQuery):
        query_parameters(f"a={text}")
    with pytest.raises(BadQuery):
        query_parameters(f"{text}=a")


def test_a_problem_may_quote_what_is_no_text() -> None:
    problem = Problem(MALFORMED_REQUEST, "what is \udcff?", reason="malformed")

    assert rb"what is \\udcff?" in problem.encode("id")
