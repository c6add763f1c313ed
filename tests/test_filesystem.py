import errno
import os
import subprocess
import sys

import pytest

from flowd.filesystem import DirectoryLock, LocalFile, LocalFileSystem, write_atomically
from tests.faulty_files import Fault, FaultyFileSystem, Killed, disk_broken, disk_full

FILES = LocalFileSystem()


@pytest.fixture
def file(tmp_path):
    file = FILES.create(tmp_path / "file")
    yield file
    file.close()


def test_a_file_reads_back_what_was_written(file):
    file.write(3, [b"abc", memoryview(b"xdefx")[1:4], b"", b"g"])
    file.sync()
    assert file.size() == 10
    assert file.read(0, 100) == b"\0\0\0abcdefg"
    assert file.read(4, 3) == b"bcd"
    assert file.read(10, 5) == b""
    assert file.read(0, 0) == b""


def test_nothing_is_written_for_no_buffers(file):
    file.write(5, [])
    file.write(5, [b""])
    assert file.size() == 0


def test_more_buffers_are_written_than_one_system_call_takes(file):
    buffers = [f"{i:05}".encode() for i in range(5000)]
    file.write(0, buffers)
    assert file.read(0, 1 << 20) == b"".join(buffers)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 10, 100])
def test_a_short_write_is_continued_where_it_stopped(file, monkeypatch, most):
    real = os.pwritev

    def short(descriptor, buffers, offset):
        return real(descriptor, [b"".join(buffers)[:most]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    file.write(2, [b"abc", b"d", memoryview(b"efghij"), b"kl"])
    assert file.read(0, 100) == b"\0\0abcdefghijkl"


def test_a_write_that_makes_no_progress_fails_instead_of_spinning(file, monkeypatch):
    monkeypatch.setattr(os, "pwritev", lambda *args: 0)
    with pytest.raises(OSError, match="wrote nothing") as caught:
        file.write(0, [b"abc"])
    assert caught.value.errno == errno.EIO


def test_a_write_that_fails_half_way_is_told(file, monkeypatch):
    real = os.pwritev

    def fail_on_the_second(descriptor, buffers, offset):
        if offset:
            raise disk_full()
        return real(descriptor, [buffers[0][:2]], offset)

    monkeypatch.setattr(os, "pwritev", fail_on_the_second)
    with pytest.raises(OSError, match="No space left"):
        file.write(0, [b"abcdef"])
    assert file.read(0, 100) == b"ab"


def test_a_read_goes_on_until_the_end_of_the_file(file, monkeypatch):
    real = os.pread
    file.write(0, [b"abcdefg"])
    monkeypatch.setattr(os, "pread", lambda d, size, offset: real(d, min(size, 3), offset))
    assert file.read(1, 100) == b"bcdefg"
    assert file.read(1, 5) == b"bcdef"


def test_allocated_space_is_there_and_reads_as_zeros(file, tmp_path):
    file.write(0, [b"abc"])
    file.allocate(1 << 20)
    assert file.size() == 1 << 20
    assert (tmp_path / "file").stat().st_blocks * 512 >= 1 << 20
    assert file.read(0, 5) == b"abc\0\0"
    file.allocate(10)
    assert file.size() == 1 << 20


def test_a_file_over_the_allowed_size_is_an_error_and_not_a_signal(tmp_path):
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from flowd.filesystem import LocalFileSystem\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "file = LocalFileSystem().create(Path(sys.argv[1]))\n"
        "try: file.allocate(2000)\n"
        "except OSError as error: print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) == errno.EFBIG


def test_a_cut_file_reads_as_zeros_where_it_grows_again(file):
    file.write(0, [b"abcdef"])
    file.truncate(2)
    file.allocate(6)
    assert file.read(0, 10) == b"ab\0\0\0\0"


def test_closing_twice_is_harmless(tmp_path):
    file = FILES.create(tmp_path / "file")
    file.close()
    other = FILES.open(tmp_path / "file")
    file.close()
    assert other.size() == 0
    other.close()


def test_create_refuses_an_existing_file(tmp_path):
    (tmp_path / "file").write_bytes(b"here")
    with pytest.raises(FileExistsError):
        FILES.create(tmp_path / "file")
    assert FILES.read_bytes(tmp_path / "file") == b"here"


def test_open_is_for_reading_unless_told(tmp_path):
    (tmp_path / "file").write_bytes(b"here")
    reading, writing = FILES.open(tmp_path / "file"), FILES.open(tmp_path / "file", writable=True)
    with pytest.raises(OSError, match="Bad file descriptor"):
        reading.write(0, [b"x"])
    writing.write(0, [b"t"])
    assert reading.read(0, 10) == b"tere"
    for file in (reading, writing):
        assert isinstance(file, LocalFile)
        file.close()
    with pytest.raises(FileNotFoundError):
        FILES.open(tmp_path / "missing")


def test_descriptors_do_not_reach_child_processes(file):
    assert not os.get_inheritable(file._descriptor)


def test_a_directory_is_listed_in_order(tmp_path):
    for name in ("b", "a", "C"):
        (tmp_path / name).touch()
    assert FILES.list_dir(tmp_path) == ["C", "a", "b"]
    with pytest.raises(FileNotFoundError):
        FILES.list_dir(tmp_path / "missing")


def test_rename_replaces_and_unlink_forgives(tmp_path):
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    FILES.rename(tmp_path / "a", tmp_path / "b")
    assert not FILES.exists(tmp_path / "a")
    assert FILES.read_bytes(tmp_path / "b") == b"new"
    FILES.unlink(tmp_path / "b")
    FILES.unlink(tmp_path / "b")
    assert not FILES.exists(tmp_path / "b")


def test_free_bytes_is_about_what_the_system_says(tmp_path):
    stat = os.statvfs(tmp_path)
    assert 0 < FILES.free_bytes(tmp_path) <= stat.f_blocks * stat.f_frsize


class Recording(LocalFileSystem):
    """Notes which directories are synced."""

    def __init__(self) -> None:
        self.synced = []

    def sync_dir(self, path):
        super().sync_dir(path)
        self.synced.append(path)


def test_every_directory_that_is_made_is_made_durable(tmp_path):
    files = Recording()
    files.make_dir(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o750
    assert files.synced == [tmp_path.parent, tmp_path, tmp_path / "a", tmp_path / "a" / "b"]


def test_a_directory_that_a_killed_process_made_is_made_durable_as_well(tmp_path):
    files = Recording()
    (tmp_path / "a").mkdir()
    files.make_dir(tmp_path / "a" / "b")
    assert files.synced[:2] == [tmp_path, tmp_path / "a"]
    files.synced.clear()
    files.make_dir(tmp_path / "a" / "b")
    assert files.synced == [tmp_path / "a"]


def test_a_parent_that_may_not_be_read_is_no_obstacle(tmp_path):
    class Unreadable(LocalFileSystem):
        def sync_dir(self, path):
            if path == tmp_path.parent:
                raise PermissionError(path)
            super().sync_dir(path)

    Unreadable().make_dir(tmp_path / "a")
    assert (tmp_path / "a").is_dir()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    for nth in range(1, 9):
        path.write_bytes(b"the old one")
        files = FaultyFileSystem(Fault("any", nth, Killed(), written=3))
        try:
            write_atomically(files, path, [b"the ", b"new one"])
        except Killed:
            assert path.read_bytes() in (b"the old one", b"the new one")
        else:
            assert path.read_bytes() == b"the new one"
    write_atomically(FILES, path, [b"and once more"])
    assert path.read_bytes() == b"and once more"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("operation", ["write", "sync"])
@pytest.mark.parametrize("error", [disk_full(), disk_broken()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, operation, error):
    path = tmp_path / "file"
    path.write_bytes(b"the old one")
    files = FaultyFileSystem(Fault(operation, 1, error, written=3))
    with pytest.raises(OSError, match=error.strerror):
        write_atomically(files, path, [b"the new one"])
    assert path.read_bytes() == b"the old one"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    lock = DirectoryLock.acquire(tmp_path / "LOCK")
    assert lock is not None
    assert DirectoryLock.acquire(tmp_path / "LOCK") is None
    lock.release()
    lock.release()
    again = DirectoryLock.acquire(tmp_path / "LOCK")
    assert again is not None
    again.release()
    assert (tmp_path / "LOCK").exists()


def test_a_lock_goes_with_the_process_that_held_it(tmp_path):
    program = (
        "import os, sys; from pathlib import Path; from flowd.filesystem import DirectoryLock\n"
        "assert DirectoryLock.acquire(Path(sys.argv[1]))\n"
        "print('held', flush=True); sys.stdin.read(); os._exit(1)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "LOCK")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout.readline() == b"held\n"
        assert DirectoryLock.acquire(tmp_path / "LOCK") is None
        holder.kill()
        holder.wait()
    lock = DirectoryLock.acquire(tmp_path / "LOCK")
    assert lock is not None
    lock.release()


def test_a_lock_that_cannot_be_taken_for_another_reason_says_so(tmp_path, monkeypatch):
    opened = []

    def unsupported(descriptor, operation):
        opened.append(descriptor)
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with pytest.raises(OSError, match="No locks"):
        DirectoryLock.acquire(tmp_path / "LOCK")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])
    with pytest.raises(FileNotFoundError):
        DirectoryLock.acquire(tmp_path / "missing" / "LOCK")
