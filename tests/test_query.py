import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowd.errors import BadQuery
from flowd.flow import HOUR_MAX, RowKey
from flowd.query import (
    AnswerFormat,
    BucketsQuery,
    Filters,
    Query,
    decode_cursor,
    encode_cursor,
    parse_buckets_query,
    parse_query,
)

NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=64)
KEYS = st.builds(RowKey, st.integers(0, HOUR_MAX), NAMES, NAMES, NAMES)
KEY = RowKey(91, "vpc-0", "foo", "bar")


def test_one_hour_is_a_range_of_one_hour() -> None:
    expected = Query(hour_from=91, hour_to=92)

    actual = parse_query([("hour", "91")])

    assert expected == actual


def test_all_parameters_arrive_in_the_query() -> None:
    expected = Query(
        hour_from=0,
        hour_to=2**32,
        filters=Filters(("b", "a"), ("c",), ("d",)),
        after=KEY,
        limit=10_000,
        partial=True,
        answer_format=AnswerFormat.CSV,
    )

    actual = parse_query(
        [
            ("to", "4294967296"),
            ("from", "0"),
            ("src_app", "b"),
            ("src_app", "a"),
            ("src_app", "b"),
            ("dest_app", "c"),
            ("vpc_id", "d"),
            ("limit", "10000"),
            ("cursor", encode_cursor(KEY)),
            ("partial", "1"),
            ("format", "csv"),
        ]
    )

    assert expected == actual


def test_the_format_is_the_callers_when_no_parameter_says_it() -> None:
    assert parse_query([("hour", "1")], AnswerFormat.NDJSON).answer_format == AnswerFormat.NDJSON
    assert (
        parse_query([("hour", "1"), ("format", "json")], AnswerFormat.NDJSON).answer_format
        == AnswerFormat.JSON
    )


@pytest.mark.parametrize(
    ("parameters", "parameter", "reason"),
    [
        ([], "hour", "missing; give hour=91, or from=91&to=115 for 91 ≤ hour < 115"),
        ([("hour", "")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "-1")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "+1")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "1.0")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "1e3")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", " 1")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "٣")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "1_0")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "text")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "4294967296")], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "9" * 5000)], "hour", "must be a decimal integer from 0 to 4294967295"),
        ([("hour", "1"), ("hour", "1")], "hour", "given more than once"),
        ([("hour", "1"), ("to", "2")], "to", "given together with hour; give hour, or from and to"),
        ([("from", "1")], "to", "missing; a range has both from and to"),
        ([("to", "1")], "from", "missing; a range has both from and to"),
        ([("from", "5"), ("to", "5")], "to", "5 is not above from=5"),
        ([("from", "0"), ("to", "0")], "to", "must be a decimal integer from 1 to 4294967296"),
        (
            [("from", "1"), ("to", "4294967297")],
            "to",
            "must be a decimal integer from 1 to 4294967296",
        ),
        ([("hour", "1"), ("limit", "0")], "limit", "must be a decimal integer from 1 to 10000"),
        ([("hour", "1"), ("limit", "10001")], "limit", "must be a decimal integer from 1 to 10000"),
        (
            [("hour", "91"), ("cursor", encode_cursor(KEY))],
            "limit",
            "missing; a cursor goes with a limit",
        ),
        (
            [("hour", "92"), ("limit", "1"), ("cursor", encode_cursor(KEY))],
            "cursor",
            "of an answer for other hours: it stands at hour 91",
        ),
        ([("hour", "1"), ("partial", "yes")], "partial", "must be 0 or 1"),
        ([("hour", "1"), ("format", "xml")], "format", "must be one of json, ndjson, csv"),
        ([("hour", "1"), ("src_app", "")], "src_app", "has 0 bytes; a name has 1 to 256"),
        ([("hour", "1"), ("src_app", "é" * 129)], "src_app", "has 258 bytes; a name has 1 to 256"),
        (
            [("hour", "1"), ("dest_app", "a\x9fb")],
            "dest_app",
            "holds a control character; no name does",
        ),
        (
            [("hour", "1"), ("vpc_id", "\ud800")],
            "vpc_id",
            "holds a lone surrogate; names are UTF-8",
        ),
        (
            [("hour", "1"), ("vpc_id", "vpc-*")],
            "vpc_id",
            r"a bare * is reserved; write \* for a star in a name",
        ),
        (
            [("hour", "1"), ("vpc_id", r"a\b")],
            "vpc_id",
            "a backslash stands before * or another backslash only",
        ),
        (
            [("hour", "1"), ("vpc_id", "a\\")],
            "vpc_id",
            "a backslash stands before * or another backslash only",
        ),
    ],
)
def test_bad_parameters_are_named_with_what_is_allowed(
    parameters: list[tuple[str, str]], parameter: str, reason: str
) -> None:
    with pytest.raises(BadQuery) as raised:
        parse_query(parameters)

    assert (raised.value.parameter, raised.value.reason) == (parameter, reason)


def test_unknown_parameters_are_refused_with_the_known_ones() -> None:
    with pytest.raises(BadQuery, match=r"known here: hour, from, to, .* src_app, dest_app, vpc_id"):
        parse_query([("hour", "1"), ("x" * 1000, "1")])


@pytest.mark.parametrize(
    ("pattern", "name"),
    [(r"\*", "*"), (r"a\*b", "a*b"), (r"a\\b", r"a\b"), (r"\\\*", r"\*"), ("é" * 128, "é" * 128)],
)
def test_an_escaped_star_is_a_star(pattern: str, name: str) -> None:
    assert parse_query([("hour", "1"), ("src_app", pattern)]).filters.src_app == (name,)


@given(KEYS)
def test_a_cursor_reads_back_as_its_key(key: RowKey) -> None:
    cursor = encode_cursor(key)

    assert decode_cursor(cursor) == key
    assert cursor.isascii()
    assert cursor.replace("-", "").replace("_", "").isalnum()


@given(KEYS, st.data())
def test_a_cut_or_changed_cursor_is_refused(key: RowKey, data: st.DataObject) -> None:
    cursor = encode_cursor(key)
    place = data.draw(st.integers(0, len(cursor) - 2))
    changed = data.draw(st.sampled_from("AZaz09-_").filter(lambda x: x != cursor[place]))

    with pytest.raises(BadQuery):
        decode_cursor(cursor[:place])
    with pytest.raises(BadQuery):
        decode_cursor(cursor[:place] + changed + cursor[place + 1 :])


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "é",
        "!!!!",
        "AAAAAA",
        "ApsAAAAFAHZwYy0wAwBmb28DAGJhcnM",  # no checksum
        "AgsAAAABAGEBAGEBAGHhKRee",  # version 2
        "AQsAAAABAGEBAGEBAGF4PbkySg",  # a byte too many
    ],
)
def test_foreign_text_is_no_cursor(cursor: str) -> None:
    with pytest.raises(BadQuery, match="not a cursor"):
        decode_cursor(cursor)


def test_the_question_for_buckets_has_two_switches() -> None:
    assert parse_buckets_query([]) == BucketsQuery(digest=False, partial=False)
    assert parse_buckets_query([("digest", "1"), ("partial", "1")]) == BucketsQuery(
        digest=True, partial=True
    )
    with pytest.raises(BadQuery, match="digest: must be 0 or 1"):
        parse_buckets_query([("digest", "")])
    with pytest.raises(BadQuery, match="hour: unknown parameter; known here: digest, partial"):
        parse_buckets_query([("hour", "1")])
