import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowd.checkpoint import (
    BucketFile,
    Manifest,
    read_bucket_file,
    read_manifests,
    remove_unused,
    write_manifest,
)
from flowd.filesystem import LocalFileSystem
from tests.checkpoint.files import IDENTITY, manifest, write_bucket_file
from tests.faulty_files import Fault, FaultyFileSystem, Killed
from tests.lossy_files import LossyFileSystem

FILES = LocalFileSystem()


def checkpoints(directory, numbers, files=FILES) -> list[Manifest]:
    """Write checkpoints, newest first: each has the bucket 0 that all share and one of its own."""
    files.make_dir(directory / "buckets")
    shared = write_bucket_file(files, directory, start=0, lsn=1)
    manifests = []
    for number in numbers:
        own = write_bucket_file(files, directory, start=number, lsn=number)
        manifests.insert(0, manifest(number, shared, own))
        write_manifest(files, directory, IDENTITY, manifests[0])
    return manifests


def names(directory) -> list[str]:
    return FILES.list_dir(directory)


def starts(directory) -> list[int]:
    return [int(name[:10]) for name in names(directory / "buckets") if name.endswith(".tbl")]


def numbers(directory) -> list[int]:
    return [int(name[9:]) for name in names(directory) if name.startswith("MANIFEST-")]


def test_the_two_newest_manifests_and_their_files_stay(tmp_path):
    manifests = checkpoints(tmp_path, [1, 2, 3, 4])
    remove_unused(FILES, tmp_path, manifests)
    assert numbers(tmp_path) == [3, 4]
    assert starts(tmp_path) == [0, 3, 4]


@pytest.mark.parametrize("reverse", [False, True])
def test_the_two_newest_are_kept_in_whatever_order_they_are_given(tmp_path, reverse):
    manifests = checkpoints(tmp_path, [1, 2, 3])
    remove_unused(FILES, tmp_path, sorted(manifests, key=lambda m: m.number, reverse=reverse))
    assert numbers(tmp_path) == [2, 3]
    assert starts(tmp_path) == [0, 2, 3]


def test_what_was_never_finished_is_removed(tmp_path):
    manifests = checkpoints(tmp_path, [1])
    write_bucket_file(FILES, tmp_path, start=9, lsn=9)
    (tmp_path / "MANIFEST-00000000000000000002.tmp").touch()
    (tmp_path / "buckets" / "0000000008-1h-00000000000000000009.tbl.tmp").touch()
    remove_unused(FILES, tmp_path, manifests)
    assert numbers(tmp_path) == [1]
    assert names(tmp_path / "buckets") == [
        "0000000000-1h-00000000000000000001.tbl",
        "0000000001-1h-00000000000000000001.tbl",
    ]


def test_the_leftovers_of_a_first_checkpoint_are_removed(tmp_path):
    FILES.make_dir(tmp_path / "buckets")
    write_bucket_file(FILES, tmp_path, start=9, lsn=9)
    remove_unused(FILES, tmp_path, [])
    assert starts(tmp_path) == []


def test_other_files_stay(tmp_path):
    manifests = checkpoints(tmp_path, [1, 2, 3])
    (tmp_path / "LOCK").touch()
    (tmp_path / "buckets" / "notes.txt").touch()
    remove_unused(FILES, tmp_path, manifests)
    assert "LOCK" in names(tmp_path)
    assert "notes.txt" in names(tmp_path / "buckets")


def test_one_checkpoint_alone_removes_no_manifest(tmp_path):
    manifests = checkpoints(tmp_path, [1, 2])
    remove_unused(FILES, tmp_path, manifests[:1])
    assert numbers(tmp_path) == [1, 2]
    assert starts(tmp_path) == [0, 1, 2]


def test_a_damaged_manifest_and_all_bucket_files_stay_until_two_newer_ones_are_sound(tmp_path):
    manifests = checkpoints(tmp_path, [1, 2, 3])
    damaged = tmp_path / "MANIFEST-00000000000000000003"
    damaged.write_bytes(b"damaged")
    remove_unused(FILES, tmp_path, manifests[1:])
    assert numbers(tmp_path) == [1, 2, 3]
    assert starts(tmp_path) == [0, 1, 2, 3]

    older = manifests[1]
    (fourth,) = checkpoints(tmp_path, [4])
    remove_unused(FILES, tmp_path, [fourth, older])
    assert numbers(tmp_path) == [2, 3, 4]
    assert damaged.read_bytes() == b"damaged"
    assert starts(tmp_path) == [0, 1, 2, 3, 4]

    (fifth,) = checkpoints(tmp_path, [5])
    remove_unused(FILES, tmp_path, [fifth, fourth])
    assert numbers(tmp_path) == [4, 5]
    assert starts(tmp_path) == [0, 4, 5]


def test_nothing_is_removed_where_every_manifest_is_damaged(tmp_path):
    checkpoints(tmp_path, [1, 2])
    remove_unused(FILES, tmp_path, [])
    assert numbers(tmp_path) == [1, 2]
    assert starts(tmp_path) == [0, 1, 2]


def test_a_removal_killed_at_any_call_leaves_no_manifest_without_its_files(tmp_path):
    finished = 0
    for nth in range(1, 15):
        directory = tmp_path / str(nth)
        manifests = checkpoints(directory, [1, 2, 3, 4])
        try:
            remove_unused(FaultyFileSystem(Fault("any", nth, Killed())), directory, manifests)
        except Killed:
            pass
        else:
            finished += 1
        sound, damaged = read_manifests(FILES, directory, IDENTITY)
        assert damaged == []
        for one in sound:
            for file in one.files:
                assert list(read_bucket_file(FILES, directory, IDENTITY, file))
        remove_unused(FILES, directory, sound)
        assert (numbers(directory), starts(directory)) == ([3, 4], [0, 3, 4])
    assert 0 < finished < 14


def test_a_power_cut_after_any_call_leaves_no_manifest_without_its_files():
    directory = Path("/shard")
    for steps in range(12):
        files = LossyFileSystem(Killed())
        manifests = checkpoints(directory, [1, 2, 3, 4], files)
        files.steps_left = steps
        with contextlib.suppress(Killed):
            remove_unused(files, directory, manifests)
        files.steps_left = None
        files.power_cut()
        sound, damaged = read_manifests(files, directory, IDENTITY)
        assert damaged == []
        assert {3, 4} <= {one.number for one in sound}
        for one in sound:
            for file in one.files:
                assert list(read_bucket_file(files, directory, IDENTITY, file))


@given(
    on_disk=st.sets(st.integers(1, 6)),
    given_numbers=st.sets(st.integers(1, 6)),
    own=st.lists(st.sets(st.integers(0, 4)), min_size=7, max_size=7),
)
def test_what_the_two_newest_of_the_given_manifests_name_is_never_removed(
    on_disk, given_numbers, own
):
    directory, files = Path("/shard"), LossyFileSystem()
    bucket_files: list[BucketFile] = [
        write_bucket_file(files, directory, start=start, blocks=[]) for start in range(5)
    ]
    everything = {
        number: manifest(number, *(bucket_files[start] for start in own[number]))
        for number in range(7)
    }
    for number in on_disk | given_numbers:
        write_manifest(files, directory, IDENTITY, everything[number])
    remove_unused(files, directory, [everything[number] for number in sorted(given_numbers)])
    left = set(files.list_dir(directory / "buckets"))
    for number in sorted(given_numbers)[-2:]:
        assert files.exists(directory / f"MANIFEST-{number:020}")
        assert {file.name for file in everything[number].files} <= left
