import pytest

from flowd.config import Config, LimitsConfig
from flowd.control import (
    LINE_BYTES_MAX,
    Assignment,
    ChildEvent,
    decode_assignment,
    decode_event,
    encode_line,
)
from flowd.data_directory import Identity
from flowd.errors import ProtocolError

IDENTITY = Identity(generation=1, shards=64, seed="0123456789abcdef", directory_id="00" * 16)
ASSIGNMENT = Assignment(
    role="router",
    index=3,
    config=Config(data_dir="\n" * 4096, limits=LimitsConfig(flows=7)),
    data_dir="/data",
    identity=IDENTITY,
    runtime_dir="/run/flowd",
    boot="b" * 32,
    kernel="reference",
    listen_descriptor=5,
)


def test_an_assignment_arrives_as_it_was_given_in_one_line():
    line = encode_line(ASSIGNMENT)
    assert line.count(b"\n") == 1
    assert len(line) < LINE_BYTES_MAX
    assert decode_assignment(line) == ASSIGNMENT
    assert ASSIGNMENT.process == "router-3"
    assert str(ASSIGNMENT.runtime_path / "x") == "/run/flowd/x"
    assert str(ASSIGNMENT.data_path / "x") == "/data/x"


@pytest.mark.parametrize("event", ["beat", "progress", "ready", "failed"])
def test_events_arrive_as_they_were_given(event: str):
    told = ChildEvent(event, "line 1\nline 2")
    assert decode_event(encode_line(told)) == told


@pytest.mark.parametrize("line", [b"", b"\n", b"{}\n", b"[1]\n", b"\xff\n", b'{"event":"dance"}\n'])
def test_anything_else_is_a_protocol_error(line: bytes):
    with pytest.raises(ProtocolError):
        decode_event(line)
    with pytest.raises(ProtocolError):
        decode_assignment(line)
