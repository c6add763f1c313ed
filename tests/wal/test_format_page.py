"""`docs/wal-format.md` says what the code does: its tables, its dumps, its links to names."""

import re
from pathlib import Path

import pytest

from flowd.checkpoint import (
    BucketFile,
    Manifest,
    read_bucket_file,
    read_manifests,
)
from flowd.checkpoint.bucket_file import (
    BLOCK_HEADER,
    BUCKET_FOOTER,
    BUCKET_HEADER,
    BlockHeader,
    BucketFooter,
)
from flowd.checkpoint.manifest import MANIFEST_HEADER
from flowd.filesystem import LocalFileSystem
from flowd.store.state import BATCH_PREFIX
from flowd.wal import RecordType
from flowd.wal.format import (
    IDENTITY,
    RECORD_HEADER,
    RECORD_SEGMENT_ID_OFFSET,
    SEAL_PAYLOAD,
    SEGMENT_HEADER,
    RecordHeader,
)
from tests.wal import golden
from tests.wal.logs import as_read, open_log

PAGE = (Path(__file__).parents[2] / "docs" / "wal-format.md").read_text()
RAW = {"magic", "identity", "directory id", "batch id"}
INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}


def section(title: str) -> str:
    """Give the text under a heading, up to the next one."""
    return re.split(r"^#+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def table(title: str) -> list[list[str]]:
    """Give the cells of the first table under a heading, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines[2:]]


def layout(rows: list[list[str]]) -> str:
    """Give a table of offsets as a struct format."""
    form, end = "<", 0
    for offset, size_text, field, *_ in rows:
        size = int(size_text)
        assert int(offset) == end, f"{field} does not begin where the field before it ends"
        end += size
        if field == "zero":
            form += f"{size}x"
        else:
            form += f"{size}s" if field in RAW else INTEGERS[size]
    return form


TABLES = [
    ("Identity", IDENTITY),
    ("Segment header", SEGMENT_HEADER),
    ("Record header", RECORD_HEADER),
    ("Batch payload", BATCH_PREFIX),
    ("Seal payload", SEAL_PAYLOAD),
    ("Bucket file header", BUCKET_HEADER),
    ("Block header", BLOCK_HEADER),
    ("Bucket file footer", BUCKET_FOOTER),
    ("Manifest header", MANIFEST_HEADER),
]


@pytest.mark.parametrize(("title", "struct"), TABLES, ids=[title for title, _ in TABLES])
def test_each_table_of_offsets_is_the_codes_layout(title, struct):
    assert layout(table(title)) == struct.format


def test_every_table_of_offsets_on_the_page_is_compared():
    assert PAGE.count("| offset | bytes | field | meaning |") == len(TABLES)


@pytest.mark.parametrize(
    ("title", "fields"),
    [
        ("Record header", RecordHeader._fields),
        ("Block header", BlockHeader._fields),
        ("Bucket file footer", BucketFooter._fields),
    ],
)
def test_fields_are_called_as_in_the_code(title, fields):
    names = [row[2].replace(" ", "_") for row in table(title) if row[2] != "zero"]
    assert names == list(fields)


def test_the_segment_id_stands_where_the_reader_looks_for_it():
    offsets = {row[2]: int(row[0]) for row in table("Record header")}
    assert offsets["segment id"] == RECORD_SEGMENT_ID_OFFSET


def test_record_types_are_those_of_the_code():
    assert {row[1].upper(): int(row[0]) for row in table("Record types")} == {
        record_type.name: record_type.value for record_type in RecordType
    }


@pytest.mark.parametrize(
    ("title", "struct"), [("Manifest payload", Manifest), ("Manifest files", BucketFile)]
)
def test_members_are_those_of_the_code(title, struct):
    assert [row[0] for row in table(title)] == list(struct.__struct_fields__)


def dumps() -> dict[str, bytes]:
    """Give what each dump of the page shows, by the file that it is said to be."""
    found = {}
    for name, dump in re.findall(r"`tests/golden/(\S+)`:\n\n```\n(.*?)```", PAGE, re.DOTALL):
        size = (golden.GOLDEN / name).stat().st_size
        content = b""
        for line in dump.splitlines():
            offset, data = re.match(r"([0-9a-f]{4})  ((?:[0-9a-f]{2} ?)*|\*)(?: |$)", line).groups()
            assert int(offset, 16) == len(content)
            content += bytes(size - len(content)) if data == "*" else bytes.fromhex(data)
        found[name] = content
    return found


def test_each_dump_is_a_golden_file():
    shown = dumps()
    assert {name: (golden.GOLDEN / name).read_bytes() for name in shown} == shown
    assert len(shown) == 3


def files_under(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_log_is_written_as_the_golden_files_are(tmp_path):
    golden.write_golden_log(tmp_path / "wal")
    assert files_under(tmp_path / "wal") == files_under(golden.GOLDEN / "wal")


def test_a_checkpoint_is_written_as_the_golden_files_are(tmp_path):
    golden.write_golden_checkpoint(tmp_path)
    assert files_under(tmp_path) == files_under(golden.GOLDEN / "checkpoint")


def test_the_golden_log_can_be_read(tmp_path):
    for name, content in files_under(golden.GOLDEN / "wal").items():
        (tmp_path / name).write_bytes(content)
    log = open_log(tmp_path, identity=golden.IDENTITY, segment_bytes=golden.SEGMENT_BYTES)
    assert log.replayed == as_read(golden.ENTRIES)
    assert files_under(tmp_path) == files_under(golden.GOLDEN / "wal")


def test_the_golden_checkpoint_can_be_read(tmp_path):
    files = LocalFileSystem()
    expected = golden.write_golden_checkpoint(tmp_path)
    sound, damaged = read_manifests(files, golden.GOLDEN / "checkpoint", golden.IDENTITY)
    assert (sound, damaged) == ([expected], [])
    blocks = read_bucket_file(
        files, golden.GOLDEN / "checkpoint", golden.IDENTITY, sound[0].files[0]
    )
    assert list(blocks) == [(b"a block", 2), (b"8 bytes!", 3)]


def test_headings_that_messages_and_links_point_to_are_there():
    assert "\n## When a shard refuses its log\n" in PAGE
    for link in re.findall(r"\(#([a-z-]+)\)", PAGE):
        assert re.search(rf"^#+ {link.replace('-', ' ')}$", PAGE, re.MULTILINE | re.IGNORECASE)
