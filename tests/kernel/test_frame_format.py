"""Reads docs/frame-format.md: its tables and examples, golden bytes too, are what the code does."""

import json
import re
import struct
from pathlib import Path

import xxhash

from flowd.kernel import Kernel
from flowd.kernel.frame import (
    FRAME_VERSION,
    HEADER_BYTES,
    decode_frame,
    encode_frame,
    read_header,
)
from flowd.kernel.hashing import prefixed
from tests.kernel.material import Shard, make_flow, make_table, split, split_body

PAGE = (Path(__file__).parents[2] / "docs" / "frame-format.md").read_text(encoding="utf-8")


def read_table(headings: str) -> list[list[str]]:
    """Give the rows of the table with these headings."""
    lines = PAGE.split("\n")
    start = lines.index(f"| {headings} |")
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def read_block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found
    return found[1]


def read_dump() -> bytes:
    dump = b""
    for line in read_block("hexdump").splitlines():
        offset, octets, note = re.fullmatch(
            r"([0-9a-f]{4})  ((?:[0-9a-f]{2} )+) *(\S.*)", line
        ).groups()
        assert int(offset, 16) == len(dump), note
        dump += bytes.fromhex(octets)
    return dump


def test_the_example_body_gives_the_example_frame(kernel: Kernel) -> None:
    frames = split_body(kernel, read_block("json").encode()).frames
    assert {shard: frame.hex(" ") for shard, frame in frames.items()} == {0: read_dump().hex(" ")}


def test_the_header_has_the_fields_of_the_table_at_their_offsets() -> None:
    fields = read_table("offset | bytes | field | meaning")
    offset = 0
    values = {}
    for place, size, field, _ in fields:
        assert int(place) == offset
        values[field] = int.from_bytes(read_dump()[offset : offset + int(size)], "little")
        offset += int(size)
    assert offset == HEADER_BYTES
    header = read_header(read_dump())
    members = ("src_app", "dest_app", "vpc_id", "bytes_tx", "bytes_rx")
    assert values == {
        "version": FRAME_VERSION,
        "flags": 0,
        **{f"{m} width": width for m, width in zip(members, header.widths, strict=True)},
        "zero": 0,
        "rows": header.rows,
        "names": header.names,
        "name bytes": header.name_bytes,
        "groups": header.groups,
        "reserved": 0,
    }


def test_each_header_field_is_where_the_table_says() -> None:
    """All fields differ here, so that two of them could not be mistaken for each other."""
    names = [b"%03d" % number for number in range(300)]
    frame = encode_frame(
        names, [(1, 260), (2, 40)], ([*range(300)], [7] * 300, None), [2**40] * 300, [2**20] * 300
    )
    places = {
        field: (int(place), int(size))
        for place, size, field, _ in read_table("offset | bytes | field | meaning")
    }

    def read(field: str) -> int:
        place, size = places[field]
        return int.from_bytes(frame[place : place + size], "little")

    assert [read(f"{m} width") for m in ("src_app", "dest_app", "vpc_id")] == [2, 1, 0]
    assert [read(f"{m} width") for m in ("bytes_tx", "bytes_rx")] == [8, 4]
    assert [read(f) for f in ("rows", "names", "name bytes", "groups")] == [300, 300, 900, 2]


def test_the_parts_stand_in_the_order_of_the_table() -> None:
    dump = read_dump()
    frame = decode_frame(dump)
    width = dict(
        zip(
            ("src_app", "dest_app", "vpc_id", "bytes_tx", "bytes_rx"),
            frame.header.widths,
            strict=True,
        )
    )
    terms = {"groups": frame.header.groups, "names": frame.header.names}
    terms |= {"name bytes": frame.header.name_bytes, "rows": frame.header.rows, "8": 8}
    columns = {
        "src_app": frame.src,
        "dest_app": frame.dest,
        "vpc_id": frame.vpc,
        "bytes_tx": frame.tx,
        "bytes_rx": frame.rx,
    }
    content = {
        "group directory": b"".join(struct.pack("<2I", *group) for group in frame.groups),
        "name lengths": bytes(len(name) - 1 for name in frame.names),
        "names": b"".join(frame.names),
    } | {
        member: b"".join(value.to_bytes(width[member], "little") for value in column)
        for member, column in columns.items()
    }
    offset = HEADER_BYTES
    for part, formula, _ in read_table("part | bytes | content"):
        size = 1
        for factor in formula.split(" · "):
            size *= width[part] if factor == "its width" else terms[factor]
        assert dump[offset : offset + size] == content.pop(part), part
        offset += size
    assert offset == len(dump)
    assert content == {}


def test_the_notes_of_the_dump_are_right() -> None:
    frame = decode_frame(read_dump())
    notes = read_block("hexdump")
    for index, name in enumerate(frame.names):
        assert f"name {index}: {name.decode()}\n" in notes
    for hour, rows in frame.groups:
        assert re.search(rf"hour {hour}: {rows} rows?\n", notes)
    for member, column in (("bytes_tx", [", ".join(map(str, frame.tx))]), ("bytes_rx", frame.rx)):
        for value in column:
            shown = f"{value:,}" if isinstance(value, int) else value
            assert f"{member}: {shown}\n" in notes
    for member, column in (("src_app", frame.src), ("dest_app", frame.dest), ("vpc_id", frame.vpc)):
        (line,) = re.findall(rf"{member}: (.*)", notes)
        names = [frame.names[index].decode() for index in column]
        assert re.sub(r" \(hour \d+\)", "", line) == ", ".join(names)


def test_the_example_shards_are_where_the_kernel_puts_those_flows(kernel: Kernel) -> None:
    rows = read_table("src_app | dest_app | vpc_id | hour | xxh3_64 | of 2 | of 3 | of 7 | of 64")
    assert len(rows) == 3
    for src, dest, vpc, hour, value, *shards in rows:
        key = b"".join(struct.pack("<H", len(n)) + n.encode() for n in (src, dest, vpc))
        day = struct.pack("<I", int(hour) // 24)
        assert f"{xxhash.xxh3_64_intdigest(key + day, 42):016x}" == value
        for count, shard in zip((2, 3, 7, 64), shards, strict=True):
            part = split(kernel, [make_flow(src, dest, vpc, hour=int(hour))], count, seed=42)
            assert list(part.frames) == [int(shard)]


def test_the_key_is_made_of_the_parts_of_the_table() -> None:
    names = {"src_app": b"ab", "dest_app": b"c", "vpc_id": b"v" * 256}
    key = b""
    for part, size in read_table("part | bytes"):
        if part.startswith("length of "):
            key += len(names[part.removeprefix("length of ")]).to_bytes(int(size), "little")
        else:
            assert size == "1 … 256"
            key += names[part]
    assert key == b"".join(map(prefixed, names.values()))


def test_the_example_digests_are_those_of_a_table(kernel: Kernel) -> None:
    for tx, rx, digest in read_table("bytes_tx | bytes_rx | digest"):
        table = make_table(kernel, [make_flow(tx=int(tx), rx=int(rx))])
        assert f"{table.digest():032x}" == digest


def test_the_example_batch_id_is_what_the_kernel_gives(kernel: Kernel) -> None:
    ((principal, key, body, expected),) = read_table("principal | key | body | batch id")
    found = kernel.batch_id(42, principal.encode(), key.encode(), body.encode())
    assert f"{found:032x}" == expected


def test_frames_take_the_bytes_that_the_page_says(kernel: Kernel) -> None:
    low, high, least, most = map(
        int, re.search(r"take (\d+) to (\d+) bytes a flow, at (\d+) to (\d+) shards", PAGE).groups()
    )
    flows = [
        make_flow(
            f"app-{i * 7919 % 500}", f"app-{i * 104_729 % 499}", f"vpc-{i % 10}",
            i * 7_907 % 1_000_000, i * 104_723 % 1_000_000, 473_000 + i * 31 % 24,
        )
        for i in range(1_000)
    ]  # fmt: skip
    for count in range(least, most + 1):
        frames = split(kernel, flows, count).frames.values()
        assert low <= sum(map(len, frames)) / len(flows) <= high
        shard = Shard(kernel)
        assert sum(map(shard.apply, frames)) == len(shard.rows())


def test_the_example_body_is_json_of_three_flows() -> None:
    assert [flow["hour"] for flow in json.loads(read_block("json"))] == [92, 91, 92]
