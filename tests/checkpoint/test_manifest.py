import struct

import google_crc32c
import msgspec
import pytest

from flowd.checkpoint import (
    BucketFile,
    Manifest,
    manifest_number_max,
    read_manifests,
    write_manifest,
)
from flowd.errors import CheckpointCorruption
from flowd.filesystem import LocalFileSystem
from tests.checkpoint.files import IDENTITY, OTHERS, manifest
from tests.faulty_files import Fault, FaultyFileSystem, Killed, disk_broken, disk_full

FILES = LocalFileSystem()
BUCKET_FILE = BucketFile(473001, 1, "0000473001-1h-00000000000000000037.tbl", 5, 38, 44)


def path_of(directory, number: int):
    return directory / f"MANIFEST-{number:020}"


def put(directory, *numbers: int) -> list[Manifest]:
    manifests = [manifest(number, BUCKET_FILE) for number in numbers]
    for one in manifests:
        write_manifest(FILES, directory, IDENTITY, one)
    return manifests


def seal(content: bytearray) -> bytes:
    """Give a manifest's bytes the checksum that they should have."""
    content[16:24] = struct.pack("<Q", len(content) - 64)
    covered = bytes(content[:24]) + bytes(content[28:])
    content[24:28] = struct.pack("<I", google_crc32c.value(covered))
    return bytes(content)


def test_manifests_read_back_newest_first(tmp_path):
    first, second, third = put(tmp_path, 1, 2, 10)
    assert read_manifests(FILES, tmp_path, IDENTITY) == ([third, second, first], [])
    assert manifest_number_max(FILES, tmp_path) == 10


def test_a_new_shard_has_no_manifest(tmp_path):
    assert read_manifests(FILES, tmp_path, IDENTITY) == ([], [])
    assert manifest_number_max(FILES, tmp_path) == 0


def test_other_files_are_no_manifests(tmp_path):
    put(tmp_path, 3)
    for name in ("MANIFEST-4", "MANIFEST-00000000000000000005.tmp", "MANIFEST-", "LOCK", "7"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / ("MANIFEST-" + "\u0660" * 20)).write_bytes(b"")
    assert manifest_number_max(FILES, tmp_path) == 3
    sound, damaged = read_manifests(FILES, tmp_path, IDENTITY)
    assert ([m.number for m in sound], damaged) == ([3], [])


def test_every_truncation_is_refused(tmp_path):
    put(tmp_path, 1)
    path = path_of(tmp_path, 1)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        sound, damaged = read_manifests(FILES, tmp_path, IDENTITY)
        assert sound == []
        assert [error.path for error in damaged] == [str(path)]


def test_every_flipped_bit_is_refused(tmp_path):
    put(tmp_path, 1)
    path = path_of(tmp_path, 1)
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        damaged_content = bytearray(content)
        damaged_content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged_content)
        sound, damaged = read_manifests(FILES, tmp_path, IDENTITY)
        assert sound == []
        assert len(damaged) == 1


def test_a_damaged_manifest_is_told_and_the_older_one_given(tmp_path):
    older, _ = put(tmp_path, 4, 5)
    path_of(tmp_path, 5).write_bytes(b"")
    sound, damaged = read_manifests(FILES, tmp_path, IDENTITY)
    assert sound == [older]
    assert isinstance(damaged[0], CheckpointCorruption)
    assert damaged[0].path == str(path_of(tmp_path, 5))
    assert damaged[0].reason == (
        "the manifest cannot be used: it has 0 bytes, fewer than its header"
    )
    assert manifest_number_max(FILES, tmp_path) == 5


def test_a_manifest_that_cannot_be_read_counts_as_damaged(tmp_path):
    put(tmp_path, 1)
    files = FaultyFileSystem(Fault("read_bytes", 1, disk_broken()))
    sound, damaged = read_manifests(files, tmp_path, IDENTITY)
    assert sound == []
    assert "Input/output error" in damaged[0].reason


@pytest.mark.parametrize("identity", OTHERS)
def test_a_manifest_of_another_shard_is_refused(tmp_path, identity):
    put(tmp_path, 1)
    sound, damaged = read_manifests(FILES, tmp_path, identity)
    assert sound == []
    assert "belongs to shard 2 of 3 in generation 1" in damaged[0].reason


def test_a_manifest_under_another_number_is_refused(tmp_path):
    put(tmp_path, 1)
    path_of(tmp_path, 1).rename(path_of(tmp_path, 2))
    sound, damaged = read_manifests(FILES, tmp_path, IDENTITY)
    assert sound == []
    assert "says that its number is 1" in damaged[0].reason


@pytest.mark.parametrize(
    ("offset", "value"), [(0, b"FLOWDWAL"), (8, b"\2\0\0\0")], ids=["magic", "version"]
)
def test_a_sound_manifest_of_another_format_is_refused(tmp_path, offset, value):
    put(tmp_path, 1)
    content = bytearray(path_of(tmp_path, 1).read_bytes())
    content[offset : offset + len(value)] = value
    path_of(tmp_path, 1).write_bytes(seal(content))
    _, damaged = read_manifests(FILES, tmp_path, IDENTITY)
    assert "this flowd reads b'FLOWDMAN' version 1" in damaged[0].reason


@pytest.mark.parametrize(
    "change",
    [
        {"unheard_of": 1},
        {"lsn": -1},
        {"batch_ids": "text"},
        {"files": [{"name": "../../etc/passwd"}]},
    ],
)
def test_a_sound_manifest_with_members_that_mean_nothing_here_is_refused(tmp_path, change):
    (written,) = put(tmp_path, 1)
    members = msgspec.to_builtins(written, builtin_types=(bytes,))
    if "files" in change:
        change = {"files": [members["files"][0] | change["files"][0]]}
    content = bytearray(path_of(tmp_path, 1).read_bytes()[:64])
    content += msgspec.msgpack.encode(members | change)
    path_of(tmp_path, 1).write_bytes(seal(content))
    sound, damaged = read_manifests(FILES, tmp_path, IDENTITY)
    assert sound == []
    assert len(damaged) == 1


def test_a_manifest_gets_its_name_after_its_sync_and_before_that_of_the_directory(tmp_path):
    files = FaultyFileSystem()
    write_manifest(files, tmp_path, IDENTITY, manifest(1))
    name = path_of(tmp_path, 1).name
    assert [call for call in files.calls if call[0] != "unlink"] == [
        ("create", name + ".tmp"),
        ("write", name + ".tmp"),
        ("sync", name + ".tmp"),
        ("rename", name),
        ("sync_dir", tmp_path.name),
    ]


def test_a_write_killed_at_any_call_leaves_the_old_manifest_in_force_or_the_new_one(tmp_path):
    outcomes = []
    for nth in range(1, 9):
        directory = tmp_path / str(nth)
        directory.mkdir()
        old, new = put(directory, 1)[0], manifest(2, BUCKET_FILE)
        files = FaultyFileSystem(Fault("any", nth, Killed(), written=40 * nth))
        try:
            write_manifest(files, directory, IDENTITY, new)
        except Killed:
            outcomes.append("killed")
        else:
            outcomes.append("written")
        sound, damaged = read_manifests(FILES, directory, IDENTITY)
        assert damaged == []
        assert sound in ([old], [new, old])
        write_manifest(FILES, directory, IDENTITY, manifest(3))
        assert read_manifests(FILES, directory, IDENTITY)[0][0].number == 3
    assert set(outcomes) == {"killed", "written"}


@pytest.mark.parametrize("operation", ["create", "write", "sync"])
def test_a_full_disk_leaves_the_old_manifest_and_nothing_else(tmp_path, operation):
    old = put(tmp_path, 1)
    files = FaultyFileSystem(Fault(operation, 1, disk_full(), written=10))
    with pytest.raises(OSError, match="No space left"):
        write_manifest(files, tmp_path, IDENTITY, manifest(2))
    assert read_manifests(FILES, tmp_path, IDENTITY) == (old, [])
    assert FILES.list_dir(tmp_path) == [path_of(tmp_path, 1).name]
