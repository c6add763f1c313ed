"""The seam to the disk: a shard reaches its files only through a FileSystem.

So that tests can lose, reorder and tear what it writes.

`LocalFileSystem` is the real one. It knows files and directories, not what is in them. Every call
blocks and is made from a shard's one I/O thread (or from `Store.open`, before there is a loop).
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self


class File(Protocol):
    """An open file. Offsets and sizes are in bytes."""

    def read(self, offset: int, size: int) -> bytes:
        """Read up to `size` bytes; fewer only at the end of the file."""
        ...

    def write(self, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
        """Write all buffers one behind the other; a short write is continued, or raises OSError."""
        ...

    def sync(self) -> None:
        """fdatasync: return when what was written is on stable storage."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file off."""
        ...

    def allocate(self, size: int) -> None:
        """Reserve space up to `size`, reading as zeros, or raise OSError (ENOSPC)."""
        ...

    def size(self) -> int:
        """Tell the file's length."""
        ...

    def close(self) -> None:
        """Close it; closing twice is harmless."""
        ...


class FileSystem(Protocol):
    """What a shard asks of a disk."""

    def create(self, path: Path) -> File:
        """Create a file for reading and writing; FileExistsError when there is one."""
        ...

    def open(self, path: Path, *, writable: bool = False) -> File:
        """Open an existing file."""
        ...

    def read_bytes(self, path: Path) -> bytes:
        """Read a whole file."""
        ...

    def list_dir(self, path: Path) -> list[str]:
        """List the names in a directory, sorted; FileNotFoundError when there is none."""
        ...

    def make_dir(self, path: Path) -> None:
        """Make a directory and its missing parents, each one durable; an existing one is fine."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Rename atomically, replacing a target; durable only after `sync_dir`."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file; a missing one is fine."""
        ...

    def sync_dir(self, path: Path) -> None:
        """Make creations, renames and removals in a directory durable."""
        ...

    def exists(self, path: Path) -> bool:
        """Tell whether there is something by that name."""
        ...

    def free_bytes(self, path: Path) -> int:
        """Tell how much room unprivileged writers have on the disk that holds `path`."""
        ...


class LocalFile:
    """A file of the operating system, by its descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, offset: int, size: int) -> bytes:
        """See `File.read`."""
        parts = []
        while size > 0:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)

    def write(self, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
        """See `File.write`."""
        pending = [buffer for buffer in buffers if len(buffer)]
        first = 0
        while first < len(pending):
            written = os.pwritev(self._descriptor, pending[first : first + _BUFFERS_A_CALL], offset)
            if written <= 0:
                raise OSError(errno.EIO, "the system wrote nothing and gave no reason")
            offset += written
            while first < len(pending) and written >= len(pending[first]):
                written -= len(pending[first])
                first += 1
            if written:
                pending[first] = memoryview(pending[first])[written:]

    def sync(self) -> None:
        """See `File.sync`."""
        os.fdatasync(self._descriptor)

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        os.ftruncate(self._descriptor, size)

    def allocate(self, size: int) -> None:
        """See `File.allocate`."""
        os.posix_fallocate(self._descriptor, 0, size)

    def size(self) -> int:
        """See `File.size`."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """See `File.close`."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class LocalFileSystem:
    """The operating system's files."""

    def create(self, path: Path) -> LocalFile:
        """See `FileSystem.create`."""
        return LocalFile(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))

    def open(self, path: Path, *, writable: bool = False) -> LocalFile:
        """See `FileSystem.open`."""
        return LocalFile(os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC))

    def read_bytes(self, path: Path) -> bytes:
        """See `FileSystem.read_bytes`."""
        return path.read_bytes()

    def list_dir(self, path: Path) -> list[str]:
        """See `FileSystem.list_dir`."""
        return sorted(entry.name for entry in path.iterdir())

    def make_dir(self, path: Path) -> None:
        """See `FileSystem.make_dir`."""
        missing = [p for p in (path, *path.parents) if not p.exists()]
        present = missing[-1].parent if missing else path
        # Whoever made it may have been killed before its name was durable; a parent that cannot be
        # opened is not one that flowd makes directories in.
        with contextlib.suppress(PermissionError):
            self.sync_dir(present.parent)
        for directory in reversed(missing):
            directory.mkdir(mode=0o750, exist_ok=True)
            self.sync_dir(directory.parent)

    def rename(self, source: Path, target: Path) -> None:
        """See `FileSystem.rename`."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """See `FileSystem.unlink`."""
        path.unlink(missing_ok=True)

    def sync_dir(self, path: Path) -> None:
        """See `FileSystem.sync_dir`."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def exists(self, path: Path) -> bool:
        """See `FileSystem.exists`."""
        return path.exists()

    def free_bytes(self, path: Path) -> int:
        """See `FileSystem.free_bytes`."""
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize


def write_atomically(files: FileSystem, path: Path, content: Sequence[bytes | memoryview]) -> None:
    """Write a whole file so that after any crash there is the old one or the new one, never a part.

    Args:
        files: where.
        path: the file; `<path>.tmp` beside it is used and replaced.
        content: its bytes.

    Raises:
        OSError: the disk is full or broken; the old file is untouched.
    """
    temporary = path.with_name(path.name + ".tmp")
    files.unlink(temporary)
    handle = files.create(temporary)
    try:
        try:
            handle.write(0, content)
            handle.sync()
        finally:
            handle.close()
    except OSError:
        files.unlink(temporary)  # what did not fit should not keep the disk full
        raise
    files.rename(temporary, path)
    files.sync_dir(path.parent)


class DirectoryLock:
    """An exclusive lock that a process holds on a directory until it exits, however it exits."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def acquire(cls, path: Path) -> Self | None:
        """Take the lock file at `path`, made when missing; None when another process has it."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Give the lock up; the file stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


_BUFFERS_A_CALL = 1024  # IOV_MAX on Linux
