"""The real file system with one fault: an error, a short write, or the end of the process."""

import errno
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowd.filesystem import LocalFile, LocalFileSystem


class Killed(BaseException):
    """The process ends here: nothing that it would have done later happens."""


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, "No space left on device")


def disk_broken() -> OSError:
    return OSError(errno.EIO, "Input/output error")


@dataclass
class Fault:
    """What goes wrong: the `nth` call, from 1, of `operation`; "any" is all that change something.

    written: how many bytes a failing write still writes.
    lasting: whether later calls fail, too.
    match: only calls whose path ends so count.
    """

    operation: str
    nth: int
    error: BaseException
    written: int = 0
    lasting: bool = False
    match: str = ""
    seen: int = 0

    def strikes(self, operation: str, path: Path) -> bool:
        if self.operation not in ("any", operation) or not path.name.endswith(self.match):
            return False
        self.seen += 1
        return self.seen == self.nth or (self.lasting and self.seen > self.nth)


class FaultyFileSystem(LocalFileSystem):
    """Counts the calls that change something in `calls`; `fault` can be set and taken away."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self.calls: list[tuple[str, str]] = []
        self.opened: weakref.WeakSet[FaultyFile] = weakref.WeakSet()

    def call(self, operation: str, path: Path) -> None:
        self.calls.append((operation, path.name))
        if self.fault is not None and self.fault.strikes(operation, path):
            raise self.fault.error

    def create(self, path: Path) -> "FaultyFile":
        self.call("create", path)
        return FaultyFile(super().create(path), path, self)

    def open(self, path: Path, *, writable: bool = False) -> "FaultyFile":
        return FaultyFile(super().open(path, writable=writable), path, self)

    def read_bytes(self, path: Path) -> bytes:
        if self.fault is not None and self.fault.operation == "read_bytes":
            raise self.fault.error
        return super().read_bytes(path)

    def rename(self, source: Path, target: Path) -> None:
        self.call("rename", target)
        super().rename(source, target)
        for file in self.opened:
            if file.path == source:
                file.path = target

    def unlink(self, path: Path) -> None:
        self.call("unlink", path)
        super().unlink(path)

    def sync_dir(self, path: Path) -> None:
        self.call("sync_dir", path)
        super().sync_dir(path)


class FaultyFile(LocalFile):
    def __init__(self, inner: LocalFile, path: Path, files: FaultyFileSystem) -> None:
        super().__init__(inner._descriptor)
        self.path = path
        self._files = files
        inner._descriptor = -1
        files.opened.add(self)

    def __del__(self) -> None:
        self.close()  # what a "killed" process had open

    def write(self, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
        try:
            self._files.call("write", self.path)
        except BaseException:
            fault = self._files.fault
            assert fault is not None
            super().write(offset, [b"".join(buffers)[: fault.written]])
            raise
        super().write(offset, buffers)

    def sync(self) -> None:
        self._files.call("sync", self.path)
        super().sync()

    def truncate(self, size: int) -> None:
        self._files.call("truncate", self.path)
        super().truncate(size)

    def allocate(self, size: int) -> None:
        self._files.call("allocate", self.path)
        super().allocate(size)
