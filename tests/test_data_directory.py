import errno
import json
from pathlib import Path

import pytest

from flowd.data_directory import (
    DataDirectory,
    Identity,
    inspect_data_directory,
    shard_directory,
)
from flowd.errors import ConfigError, FlowdError
from flowd.filesystem import LocalFileSystem

FILES = LocalFileSystem()


def make(path: Path, shards: int | None = None) -> Identity:
    directory = DataDirectory.open(FILES, path, shards)
    directory.close()
    return directory.identity


def rewrite(path: Path, **changes: object) -> None:
    """Change members of flowd.json; None takes one away."""
    members = json.loads((path / "flowd.json").read_text()) | changes
    kept = {name: value for name, value in members.items() if value is not None}
    (path / "flowd.json").write_text(json.dumps(kept))


def test_a_new_directory_gets_two_shards_a_seed_and_an_id_of_its_own(tmp_path: Path):
    one, other = make(tmp_path / "a" / "b"), make(tmp_path / "other")
    assert (one.generation, one.shards, one.format_version) == (1, 2, 1)
    assert one.seed != other.seed
    assert one.directory_id != other.directory_id
    assert 0 <= one.seed_number < 2**64
    assert len(one.directory_id_bytes) == 16


def test_an_existing_directory_stays_what_it_is(tmp_path: Path):
    made = make(tmp_path, 5)
    assert make(tmp_path) == made
    assert make(tmp_path, 5) == made


def test_the_file_is_readable_and_may_be_laid_out_anew(tmp_path: Path):
    made = make(tmp_path, 5)
    text = (tmp_path / "flowd.json").read_text()
    assert text.startswith('{\n  "format_version": 1,\n  "generation": 1,\n  "shards": 5,\n')
    rewrite(tmp_path)  # on one line
    assert make(tmp_path) == made


def test_another_number_of_shards_is_refused(tmp_path: Path):
    make(tmp_path, 5)
    with pytest.raises(ConfigError, match=r"divided among 5 shards, not shards = 4"):
        make(tmp_path, 4)
    assert make(tmp_path).shards == 5


def test_a_directory_has_one_owner_at_a_time(tmp_path: Path):
    owner = DataDirectory.open(FILES, tmp_path, None)
    with pytest.raises(FlowdError, match=f"{tmp_path}: another flowd is running") as refusal:
        DataDirectory.open(FILES, tmp_path, None)
    assert not isinstance(refusal.value, ConfigError)  # the same settings work later
    owner.close()
    make(tmp_path)


def test_a_refused_directory_is_not_kept_locked(tmp_path: Path):
    make(tmp_path, 5)
    for _ in range(2):
        with pytest.raises(ConfigError, match="divided among 5"):
            make(tmp_path, 4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": "0" * 16}, "checksum does not match"),
        ({"shards": 4}, "checksum does not match"),
        ({"checksum": "00000000"}, "checksum does not match"),
        ({"checksum": None}, "missing required field `checksum`"),
        ({"seed": "12"}, "regex"),
        ({"shards": 65}, "<= 64"),
        ({"format_version": 2}, "format 2, but this flowd reads format 1"),
        ({"format_version": None}, "missing required field `format_version`"),
        ({"more": 1}, "unknown field `more`"),
    ],
)
def test_a_damaged_or_foreign_identity_is_refused(
    tmp_path: Path, changes: dict[str, object], reason: str
):
    make(tmp_path, 5)
    rewrite(tmp_path, **changes)
    with pytest.raises(ConfigError, match=reason) as refusal:
        make(tmp_path)
    assert str(tmp_path / "flowd.json") in str(refusal.value)


def test_no_prefix_of_the_file_is_taken_for_the_whole(tmp_path: Path):
    make(tmp_path)
    whole = (tmp_path / "flowd.json").read_bytes()
    for length in range(len(whole) - 2):  # the last byte is the newline behind the object
        (tmp_path / "flowd.json").write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"flowd\.json: damaged"):
            make(tmp_path)


def test_no_flipped_bit_of_a_value_goes_unnoticed(tmp_path: Path):
    made = make(tmp_path)
    whole = (tmp_path / "flowd.json").read_bytes()
    accepted = 0
    for position in range(len(whole) * 8):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        (tmp_path / "flowd.json").write_bytes(damaged)
        try:
            assert make(tmp_path) == made  # one kind of white space for another
            accepted += 1
        except ConfigError:
            continue
    assert accepted < 100


def test_data_without_its_identity_is_never_made_a_new_directory(tmp_path: Path):
    make(tmp_path)
    (tmp_path / "gen-1/shard-00/wal").mkdir()
    (tmp_path / "flowd.json").unlink()
    with pytest.raises(ConfigError, match=r"holds gen-1 but no flowd\.json"):
        make(tmp_path)
    assert not (tmp_path / "flowd.json").exists()


def test_a_crash_before_the_identity_was_durable_starts_over(tmp_path: Path):
    (tmp_path / "LOCK").touch()
    (tmp_path / "flowd.json.tmp").write_text("{")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".snapshots").mkdir()
    assert make(tmp_path).shards == 2


@pytest.mark.parametrize("name", ["file", "file/data", "dangling", "dangling/data", "x" * 300])
def test_a_path_that_cannot_be_a_directory_is_named_and_not_worth_a_restart(
    tmp_path: Path, name: str
):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "missing" / "target")
    for attempt in (make, lambda path: inspect_data_directory(FILES, path, None)):
        with pytest.raises(ConfigError, match=f"{tmp_path / name}: cannot be used as data_dir"):
            attempt(tmp_path / name)


def test_a_directory_without_access_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    # Root has access to everything, so the system's word is put on.
    monkeypatch.setattr("os.access", lambda path, _: path != tmp_path)
    for path in (tmp_path, tmp_path / "data"):
        with pytest.raises(ConfigError, match=f"data_dir: no access to {tmp_path}$"):
            inspect_data_directory(FILES, path, None)


def test_a_look_at_a_directory_tells_what_opening_it_would(tmp_path: Path):
    new = tmp_path / "a" / "b"
    assert inspect_data_directory(FILES, new, 5) is None
    assert not new.parent.exists()
    made = make(new, 5)
    owner = DataDirectory.open(FILES, new, None)
    assert inspect_data_directory(FILES, new, None) == made
    assert inspect_data_directory(FILES, new, 5) == made
    owner.close()
    with pytest.raises(ConfigError, match=r"divided among 5 shards, not shards = 4"):
        inspect_data_directory(FILES, new, 4)
    rewrite(new, shards=4)
    with pytest.raises(ConfigError, match=r"checksum does not match"):
        inspect_data_directory(FILES, new, None)


def test_a_look_at_a_directory_of_something_else_refuses_it_and_adds_nothing(tmp_path: Path):
    assert inspect_data_directory(FILES, tmp_path, None) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"holds thesis\.tex but no flowd\.json"):
        inspect_data_directory(FILES, tmp_path, None)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_full_disk_is_named_and_the_lock_is_given_back(tmp_path: Path):
    class FullDisk(LocalFileSystem):
        def rename(self, source: Path, target: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(2):
        with pytest.raises(FlowdError, match="No space left on device") as refusal:
            DataDirectory.open(FullDisk(), tmp_path, None)
        assert not isinstance(refusal.value, ConfigError)  # there may be room later
    assert make(tmp_path).shards == 2


def test_a_relative_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    directory = DataDirectory.open(FILES, Path("data"), None)
    directory.close()
    assert directory.path == tmp_path / "data"


def test_shards_have_directories_that_sort():
    paths = [shard_directory(Path("/data"), 2, shard) for shard in (0, 9, 10, 63)]
    assert paths[0] == Path("/data/gen-2/shard-00")
    assert paths == sorted(paths)


def test_a_creation_that_was_cut_short_is_done_again(tmp_path: Path) -> None:
    make(tmp_path, shards=3)
    (tmp_path / "flowd.json").unlink()
    assert make(tmp_path, shards=2).shards == 2
