"""Segment files: their names, and how one is made so that it never exists half.

A segment is made under a temporary name, given its space, its header, a sync, and only then its
name and a sync of the directory. So whatever is called `<first LSN>.wal` had a durable header.
"""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from flowd.filesystem import File, FileSystem
from flowd.wal.format import SEGMENT_HEADER, SegmentHeader
from flowd.wal.reader import corruption

SEGMENT_SUFFIX: Final = ".wal"
TEMPORARY_SUFFIX: Final = ".tmp"
SPARE_NAME: Final = "spare" + TEMPORARY_SUFFIX

_NAME_DIGITS: Final = 20
_OUT_OF_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_out_of_space(error: OSError) -> bool:
    """Tell whether a disk, a quota, or the allowed size of a file is used up."""
    return error.errno in _OUT_OF_SPACE


def segment_name(first_lsn: int) -> str:
    """Name the segment that starts at an LSN; names sort like their LSNs."""
    return f"{first_lsn:0{_NAME_DIGITS}}{SEGMENT_SUFFIX}"


def list_segments(files: FileSystem, directory: Path) -> list[int]:
    """List the first LSNs of a log's segments, ascending.

    Raises:
        WalCorruption: a `.wal` is not named like a segment; what it holds might be missed.
    """
    first_lsns = []
    for name in files.list_dir(directory):
        if not name.endswith(SEGMENT_SUFFIX):
            continue
        digits = name.removesuffix(SEGMENT_SUFFIX)
        if len(digits) != _NAME_DIGITS or not (digits.isascii() and digits.isdigit()):
            raise corruption(directory / name, 0, "this is not the name of a segment")
        first_lsns.append(int(digits))
    return first_lsns


@dataclass(slots=True)
class LiveSegment:
    """One segment of the log, as the writer accounts for it.

    used_bytes: header, records and seal; not the space behind them.
    """

    path: Path
    first_lsn: int
    used_bytes: int


@dataclass(slots=True)
class OpenSegment:
    """The segment that is written to.

    Attributes:
        live: its account.
        file: open for writing.
        segment_id: from its header.
        capacity_bytes: how much of the file is allocated.
        records: how many it holds.
    """

    live: LiveSegment
    file: File
    segment_id: int
    capacity_bytes: int
    records: int


class SpareSegment:
    """A segment without a name yet: space that the next rotation will not have to ask for.

    Raises:
        OSError: it could not be made; nothing is left of it.
    """

    def __init__(self, files: FileSystem, directory: Path, size_bytes: int) -> None:
        self._files = files
        self._directory = directory
        self._path = directory / SPARE_NAME
        self._capacity_bytes = 0
        files.unlink(self._path)
        self._file = files.create(self._path)
        try:
            self.grow(size_bytes)
        except OSError:
            self.discard()
            raise

    def grow(self, size_bytes: int) -> None:
        """Reserve at least `size_bytes`.

        Raises:
            OSError: there is no room for that; what was reserved before stays.
        """
        if size_bytes > self._capacity_bytes:
            self._file.allocate(size_bytes)
            self._capacity_bytes = size_bytes

    def write_header(self, header: SegmentHeader) -> None:
        """Make a header durable; it may be replaced by another one.

        Raises:
            OSError: the disk is full or broken; discard the spare.
        """
        self._file.write(0, [header.pack()])
        self._file.sync()

    def put_in_force(self, header: SegmentHeader) -> OpenSegment:
        """Give it the name that belongs to the header that was written.

        That is durable only once the directory is synced.

        Raises:
            OSError: it could not be renamed and is still a spare.
        """
        path = self._directory / segment_name(header.first_lsn)
        if self._files.exists(path):
            raise FileExistsError(errno.EEXIST, "there is a segment by this name", str(path))
        self._files.rename(self._path, path)
        live = LiveSegment(path, header.first_lsn, SEGMENT_HEADER.size)
        return OpenSegment(live, self._file, header.segment_id, self._capacity_bytes, 0)

    def close(self) -> None:
        """Close it and leave it where it is; recovery removes it."""
        self._file.close()

    def discard(self) -> None:
        """Close and remove it.

        Raises:
            OSError: the disk is broken.
        """
        self.close()
        self._files.unlink(self._path)
