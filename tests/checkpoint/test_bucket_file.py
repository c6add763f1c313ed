import struct
import tracemalloc

import google_crc32c
import pytest

from flowd.checkpoint import BucketFile, BucketFileWriter, read_bucket_file
from flowd.errors import CheckpointCorruption
from flowd.filesystem import LocalFileSystem
from tests.checkpoint.files import BLOCKS, IDENTITY, OTHERS, write_bucket_file
from tests.faulty_files import Fault, FaultyFileSystem, Killed, disk_broken, disk_full

FILES = LocalFileSystem()
NAME = "0000473001-1h-00000000000000000037.tbl"


def read(directory, file, identity=IDENTITY, files=FILES):
    return list(read_bucket_file(files, directory, identity, file))


def test_blocks_read_back_with_their_lsns(tmp_path):
    file = write_bucket_file(FILES, tmp_path)
    assert file == BucketFile(start=473001, width=1, name=NAME, rows=5, lsn_min=38, lsn_max=44)
    assert read(tmp_path, file) == [(block, lsn) for block, _, lsn in BLOCKS]
    assert [path.name for path in (tmp_path / "buckets").iterdir()] == [NAME]


@pytest.mark.parametrize("size", range(17))
def test_blocks_of_any_length_read_back(tmp_path, size):
    blocks = [(b"x" * size, 1, 7), (b"y", 1, 8)]
    file = write_bucket_file(FILES, tmp_path, blocks=blocks)
    assert (tmp_path / "buckets" / NAME).stat().st_size % 8 == 0
    assert read(tmp_path, file) == [(b"x" * size, 7), (b"y", 8)]


def test_a_bucket_without_blocks_reads_back_empty(tmp_path):
    file = write_bucket_file(FILES, tmp_path, blocks=[])
    assert (file.rows, file.lsn_min, file.lsn_max) == (0, 0, 0)
    assert read(tmp_path, file) == []


def test_the_largest_hour_width_and_lsn_have_names_and_read_back(tmp_path):
    file = write_bucket_file(FILES, tmp_path, start=2**32 - 1, width=2**32 - 1, lsn=2**64 - 1)
    assert file.name == "4294967295-4294967295h-18446744073709551615.tbl"
    assert len(read(tmp_path, file)) == 3


def test_every_truncation_is_refused(tmp_path):
    file = write_bucket_file(FILES, tmp_path)
    path = tmp_path / "buckets" / NAME
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointCorruption, match="cannot be used"):
            read(tmp_path, file)


def test_every_flipped_bit_is_refused(tmp_path):
    file = write_bucket_file(FILES, tmp_path)
    path = tmp_path / "buckets" / NAME
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointCorruption, match="cannot be used"):
            read(tmp_path, file)


def test_bytes_behind_the_footer_are_refused(tmp_path):
    file = write_bucket_file(FILES, tmp_path)
    path = tmp_path / "buckets" / NAME
    path.write_bytes(path.read_bytes() + bytes(8))
    with pytest.raises(CheckpointCorruption, match="8 bytes follow its footer"):
        read(tmp_path, file)


def sizes(content: bytes) -> list[tuple[int, int]]:
    """Give where each block of a bucket file starts and ends."""
    places, offset = [], 64
    while (length := struct.unpack_from("<I", content, offset + 4)[0]) != 2**32 - 1:
        end = offset + 32 + length + -length % 8
        places.append((offset, end))
        offset = end
    return places


def test_a_missing_a_doubled_and_a_swapped_block_are_refused(tmp_path):
    file = write_bucket_file(FILES, tmp_path)
    path = tmp_path / "buckets" / NAME
    content = path.read_bytes()
    head, tail = content[:64], content[-32:]
    blocks = [content[start:end] for start, end in sizes(content)]
    for order in ([0, 1], [1, 2], [0, 1, 2, 2], [1, 0, 2], []):
        path.write_bytes(head + b"".join(blocks[i] for i in order) + tail)
        with pytest.raises(CheckpointCorruption, match=r"belongs|counts"):
            read(tmp_path, file)


def test_a_sound_block_of_another_file_is_refused(tmp_path):
    file = write_bucket_file(FILES, tmp_path)
    other = write_bucket_file(
        FILES, tmp_path, lsn=36, blocks=[BLOCKS[0], BLOCKS[1], (b"THIRD ONE", 2, 44)]
    )
    path = tmp_path / "buckets" / NAME
    content, foreign = path.read_bytes(), (tmp_path / "buckets" / other.name).read_bytes()
    start, end = sizes(content)[2]
    path.write_bytes(content[:start] + foreign[start:end] + content[end:])
    with pytest.raises(CheckpointCorruption, match="footer belongs to other blocks"):
        read(tmp_path, file)


def rewritten_header(offset: int, value: bytes):
    def change(content: bytearray) -> None:
        content[offset : offset + len(value)] = value
        content[60:64] = struct.pack("<I", google_crc32c.value(bytes(content[:60])))

    return change


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"FLOWDWAL", "this flowd reads b'FLOWDTBL' version 1"),
        (8, b"\2", "version 2; this flowd"),
        (40, struct.pack("<I", 473_002), "says that it is 0000473002-1h"),
        (44, struct.pack("<I", 4), "says that it is 0000473001-4h"),
        (48, struct.pack("<Q", 36), "00000000000000000036.tbl"),
    ],
)
def test_a_sound_header_that_says_something_else_is_refused(tmp_path, offset, value, reason):
    file = write_bucket_file(FILES, tmp_path)
    path = tmp_path / "buckets" / NAME
    content = bytearray(path.read_bytes())
    rewritten_header(offset, value)(content)
    path.write_bytes(content)
    with pytest.raises(CheckpointCorruption, match=reason):
        read(tmp_path, file)


@pytest.mark.parametrize("identity", OTHERS)
def test_a_file_of_another_shard_is_refused(tmp_path, identity):
    file = write_bucket_file(FILES, tmp_path)
    with pytest.raises(CheckpointCorruption, match="belongs to shard 2 of 3"):
        read(tmp_path, file, identity)


@pytest.mark.parametrize("change", [{"rows": 6}, {"lsn_min": 37}, {"lsn_max": 45}])
def test_a_file_that_is_not_what_the_manifest_means_is_refused(tmp_path, change):
    write_bucket_file(FILES, tmp_path)
    meant = {"start": 473001, "width": 1, "name": NAME, "rows": 5, "lsn_min": 38, "lsn_max": 44}
    with pytest.raises(CheckpointCorruption, match="not the file that the manifest means"):
        read(tmp_path, BucketFile(**meant | change))


def test_a_missing_file_is_refused(tmp_path):
    file = write_bucket_file(FILES, tmp_path)
    (tmp_path / "buckets" / NAME).unlink()
    with pytest.raises(CheckpointCorruption, match="cannot be opened"):
        read(tmp_path, file)


def test_a_file_that_gets_shorter_while_it_is_read_is_refused(tmp_path):
    file = write_bucket_file(FILES, tmp_path)
    blocks = read_bucket_file(FILES, tmp_path, IDENTITY, file)
    next(blocks)
    (tmp_path / "buckets" / NAME).write_bytes(b"")
    with pytest.raises(CheckpointCorruption, match="became shorter"):
        next(blocks)


def test_a_reader_holds_one_block_at_a_time(tmp_path):
    block_bytes = 1 << 20
    blocks = [(bytes([i]) * block_bytes, 1, i + 1) for i in range(8)]
    file = write_bucket_file(FILES, tmp_path, blocks=blocks)
    del blocks
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_bucket_file(FILES, tmp_path, IDENTITY, file))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 8
    assert peak_bytes < 3 * block_bytes


def test_an_abandoned_file_leaves_nothing(tmp_path):
    FILES.make_dir(tmp_path / "buckets")
    writer = BucketFileWriter(FILES, tmp_path, IDENTITY, 1, 1, 1)
    writer.add(b"block", 1, 1)
    writer.abandon()
    assert list((tmp_path / "buckets").iterdir()) == []


def test_a_file_gets_its_name_after_its_sync_and_before_that_of_the_directory(tmp_path):
    files = FaultyFileSystem()
    write_bucket_file(files, tmp_path)
    assert files.calls[-3:] == [
        ("sync", NAME + ".tmp"),
        ("rename", NAME),
        ("sync_dir", "buckets"),
    ]


def test_a_write_killed_at_any_call_leaves_the_whole_file_or_none_and_can_be_done_again(tmp_path):
    finished = 0
    for nth in range(1, 20):
        directory = tmp_path / str(nth)
        FILES.make_dir(directory / "buckets")
        files = FaultyFileSystem(Fault("any", nth, Killed(), written=nth))
        try:
            write_bucket_file(files, directory)
        except Killed:
            names = {path.name for path in (directory / "buckets").iterdir()}
            assert names <= {NAME, NAME + ".tmp"}
        else:
            finished += 1
        file = write_bucket_file(FILES, directory)
        assert len(read(directory, file)) == 3
    assert 0 < finished < 15


@pytest.mark.parametrize("error", [disk_full(), disk_broken()])
@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
def test_a_disk_error_is_raised_and_abandoning_leaves_nothing(tmp_path, operation, error):
    FILES.make_dir(tmp_path / "buckets")
    files = FaultyFileSystem(Fault(operation, 1, error, written=9))
    if operation in ("create", "write"):  # of the header: nothing to abandon
        with pytest.raises(OSError, match=error.strerror):
            BucketFileWriter(files, tmp_path, IDENTITY, 1, 1, 1)
    else:
        writer = BucketFileWriter(files, tmp_path, IDENTITY, 1, 1, 1)
        writer.add(b"block", 1, 1)
        with pytest.raises(OSError, match=error.strerror):
            writer.finish()
        writer.abandon()
    assert list((tmp_path / "buckets").iterdir()) == []
