"""A disk in memory that keeps only what was synced: power cuts lose, reorder and tear the rest.

Every change goes to the cache, which is what reads see, and waits in a list. A sync carries a
file's list to the disk, `sync_dir` a directory's. At a power cut each waiting write loses some of
its sectors and each waiting rename may be lost. A failed sync drops the file's list and leaves the
cache as it is, like Linux: later reads show what the disk never gets.
"""

import errno
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SECTOR_BYTES = 512


@dataclass
class Inode:
    cache: bytearray = field(default_factory=bytearray)
    disk: bytearray = field(default_factory=bytearray)
    waiting: list[tuple[int, bytes | None]] = field(default_factory=list)

    def resize(self, content: bytearray, size: int) -> None:
        del content[size:]
        content.extend(bytes(size - len(content)))

    def change(self, offset: int, data: bytes | None) -> None:
        """Write `data` at `offset`, or with None set the size to `offset`."""
        self.waiting.append((offset, data))
        self.apply(self.cache, offset, data)

    def apply(self, content: bytearray, offset: int, data: bytes | None) -> None:
        if data is None:
            self.resize(content, offset)
        else:
            self.resize(content, max(len(content), offset + len(data)))
            content[offset : offset + len(data)] = data

    def sync(self) -> None:
        for offset, data in self.waiting:
            self.apply(self.disk, offset, data)
        self.waiting.clear()

    def cut(self, rng: random.Random) -> None:
        kept = rng.choice((0.0, 0.5, 0.9, 1.0))
        for offset, data in self.waiting:
            if data is None:
                if rng.random() < kept:
                    self.resize(self.disk, offset)
                continue
            start = 0
            while start < len(data):
                stop = min(len(data), start + SECTOR_BYTES - (offset + start) % SECTOR_BYTES)
                if rng.random() < kept:
                    self.apply(self.disk, offset + start, data[start:stop])
                start = stop
        self.waiting.clear()
        self.cache = bytearray(self.disk)


class _Lossiest(random.Random):
    def random(self) -> float:
        return 1.0

    def choice(self, seq):
        return seq[0]


class LossyFile:
    def __init__(self, files: "LossyFileSystem", inode: Inode) -> None:
        self._files = files
        self._inode = inode

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self._inode.cache[offset : offset + size])

    def write(self, offset: int, buffers: Sequence[bytes | memoryview]) -> None:
        self._files.step()
        self._inode.change(offset, b"".join(buffers))

    def sync(self) -> None:
        self._files.step()
        if self._files.syncs_fail:
            self._inode.waiting.clear()
            raise OSError(errno.EIO, "Input/output error")
        self._inode.sync()

    def truncate(self, size: int) -> None:
        self._files.step()
        self._inode.change(size, None)

    def allocate(self, size: int) -> None:
        self._files.step()
        if size > len(self._inode.cache):
            self._inode.change(size, None)

    def size(self) -> int:
        return len(self._inode.cache)

    def close(self) -> None:
        pass


class LossyFileSystem:
    """One disk; it outlives the processes that use it.

    stop: what is raised when the process shall end.
    steps_left: how many changes may still happen before that; None for no end.
    """

    def __init__(self, stop: BaseException | None = None) -> None:
        self._stop = stop
        self._cache: dict[Path, Inode] = {}
        self._disk: dict[Path, Inode] = {}
        self._waiting: list[tuple[Path, Inode | None]] = []
        self.steps_left: int | None = None
        self.syncs_fail = False

    def load(self, directory: Path, contents: Mapping[str, bytes]) -> None:
        """Make these files, and these alone, durable in a directory."""
        for path in [p for p in self._cache if p.parent == directory]:
            del self._cache[path]
        for name, content in contents.items():
            self._cache[directory / name] = Inode(bytearray(content), bytearray(content))
        self._disk = dict(self._cache)
        self._waiting.clear()

    def contents(self, directory: Path) -> dict[str, bytes]:
        """Give all files of a directory as reads see them."""
        return {name: self.read_bytes(directory / name) for name in self.list_dir(directory)}

    def step(self) -> None:
        if self.steps_left is not None:
            if self.steps_left == 0:
                assert self._stop is not None
                raise self._stop
            self.steps_left -= 1

    def power_cut(self, rng: random.Random | None = None) -> None:
        """Lose some of what was not synced, as `rng` has it; all of it without one."""
        rng = rng or _Lossiest()
        kept = rng.choice((0.0, 0.5, 1.0))
        for path, inode in self._waiting:
            if rng.random() < kept:
                self._link(self._disk, path, inode)
        self._waiting.clear()
        for inode in {id(inode): inode for inode in self._disk.values()}.values():
            inode.cut(rng)
        self._cache = dict(self._disk)

    def _link(self, names: dict[Path, Inode], path: Path, inode: Inode | None) -> None:
        if inode is None:
            names.pop(path, None)
            return
        for other in [p for p, i in names.items() if i is inode]:
            del names[other]
        names[path] = inode

    def _change(self, path: Path, inode: Inode | None) -> None:
        self.step()
        self._link(self._cache, path, inode)
        self._waiting.append((path, inode))

    def create(self, path: Path) -> LossyFile:
        if path in self._cache:
            raise FileExistsError(path)
        inode = Inode()
        self._change(path, inode)
        return LossyFile(self, inode)

    def open(self, path: Path, *, writable: bool = False) -> LossyFile:
        return LossyFile(self, self._inode(path))

    def read_bytes(self, path: Path) -> bytes:
        return bytes(self._inode(path).cache)

    def list_dir(self, path: Path) -> list[str]:
        return sorted(p.name for p in self._cache if p.parent == path)

    def make_dir(self, path: Path) -> None:
        pass

    def rename(self, source: Path, target: Path) -> None:
        self._change(target, self._inode(source))

    def unlink(self, path: Path) -> None:
        if path in self._cache:
            self._change(path, None)

    def sync_dir(self, path: Path) -> None:
        self.step()
        for changed, inode in self._waiting:
            if changed.parent == path:
                self._link(self._disk, changed, inode)
        self._waiting = [change for change in self._waiting if change[0].parent != path]

    def exists(self, path: Path) -> bool:
        return path in self._cache

    def free_bytes(self, path: Path) -> int:
        return 1 << 40

    def _inode(self, path: Path) -> Inode:
        if path not in self._cache:
            raise FileNotFoundError(path)
        return self._cache[path]
