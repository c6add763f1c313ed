"""Manifests: which files are in force, and up to which LSN they stand for the log.

A manifest is never changed; the next one has the next number. A reader gets all sound ones, newest
first, and is told of the damaged ones, because falling back to an older manifest is only right as
long as the log reaches back to it. The bytes are in `docs/wal-format.md`.
"""

import struct
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from flowd.errors import CheckpointCorruption
from flowd.filesystem import FileSystem, write_atomically
from flowd.wal.format import CHECKSUM, LogIdentity, checksum

MANIFEST_VERSION: Final = 1
MANIFEST_MAGIC: Final = b"FLOWDMAN"
MANIFEST_HEADER: Final = struct.Struct("<8sI4xQI4x28s4x")
MANIFEST_PREFIX: Final = "MANIFEST-"

_NUMBER_DIGITS: Final = 20
_CHECKSUM_OFFSET: Final = 24

Unsigned32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Unsigned = Annotated[int, Meta(ge=0)]


class BucketFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One bucket file, as a manifest names it.

    Attributes:
        start: the bucket's first hour.
        width: its width in hours.
        name: the file's name in `buckets/`.
        rows: how many rows it holds.
        lsn_min: the lowest LSN that any of its blocks was taken at; 0 when it has no block.
        lsn_max: the highest; the log must reach it, and no new record may have it.
    """

    start: Unsigned32
    width: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    name: Annotated[str, Meta(pattern=r"\A[0-9]{10}-[0-9]+h-[0-9]{20}\.tbl\Z")]
    rows: Unsigned
    lsn_min: Unsigned
    lsn_max: Unsigned


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """What a checkpoint puts in force.

    Attributes:
        number: one above the manifest before it, 1 or more.
        lsn: M, the last log record that the files cover wholly; replay starts behind it.
        flows_appended: how many flows the log had taken up to M since the shard was made.
        rows: how many rows the shard held.
        files: the bucket files in force.
        archive: the archive files in force; none yet.
        batch_ids: the remembered batch ids, 24 bytes each: the id, then its key time as a u64.
        floor_ms: the highest key time ever forgotten.
        dropped: (start, width) of buckets that were dropped for good; none yet.
        created_ms: the wall clock, for people.
    """

    number: Annotated[int, Meta(ge=1)]
    lsn: Unsigned
    flows_appended: Unsigned
    rows: Unsigned
    files: list[BucketFile]
    archive: list[str]
    batch_ids: bytes
    floor_ms: Unsigned
    dropped: list[tuple[int, int]]
    created_ms: int


def manifest_name(number: int) -> str:
    """Name a manifest; names sort like their numbers."""
    return f"{MANIFEST_PREFIX}{number:0{_NUMBER_DIGITS}}"


def list_manifests(files: FileSystem, directory: Path) -> list[int]:
    """List the numbers of all manifests of a shard's directory, sound or not, ascending."""
    numbers = []
    for name in files.list_dir(directory):
        digits = name.removeprefix(MANIFEST_PREFIX)
        if digits.isascii() and digits.isdigit() and manifest_name(int(digits)) == name:
            numbers.append(int(digits))
    return numbers


def manifest_number_max(files: FileSystem, directory: Path) -> int:
    """Tell the highest number of any manifest, damaged ones included; 0 without any.

    The next one takes the number above it, so that no damaged one is overwritten.
    """
    return max(list_manifests(files, directory), default=0)


def write_manifest(
    files: FileSystem, directory: Path, identity: LogIdentity, manifest: Manifest
) -> None:
    """Put a checkpoint in force, atomically and durably.

    Everything it names must be durable already.

    Args:
        files: the disk.
        directory: the shard's.
        identity: the shard.
        manifest: its number is above that of every other in the directory.

    Raises:
        OSError: the disk is full or broken; the manifest before stays in force.
    """
    payload = msgspec.msgpack.encode(manifest)
    header = bytearray(
        MANIFEST_HEADER.pack(MANIFEST_MAGIC, MANIFEST_VERSION, len(payload), 0, identity.pack())
    )
    CHECKSUM.pack_into(header, _CHECKSUM_OFFSET, _checksum(bytes(header), payload))
    write_atomically(files, directory / manifest_name(manifest.number), [bytes(header), payload])


def read_manifests(
    files: FileSystem, directory: Path, identity: LogIdentity
) -> tuple[list[Manifest], list[CheckpointCorruption]]:
    """Read all manifests of a shard's directory.

    Args:
        files: the disk.
        directory: the shard's; it exists.
        identity: which shard they must say they belong to.

    Returns:
        The sound ones, newest first, and what is wrong with each of the others.
    """
    sound: list[Manifest] = []
    damaged: list[CheckpointCorruption] = []
    for number in reversed(list_manifests(files, directory)):
        path = directory / manifest_name(number)
        try:
            sound.append(_decode(files.read_bytes(path), identity, number))
        except (ValueError, OSError) as error:
            damaged.append(CheckpointCorruption(str(path), f"the manifest cannot be used: {error}"))
    return sound, damaged


def _checksum(header: bytes, payload: bytes) -> int:
    """CRC32C of everything but itself."""
    return checksum(header[:_CHECKSUM_OFFSET], header[_CHECKSUM_OFFSET + CHECKSUM.size :], payload)


def _decode(content: bytes, identity: LogIdentity, number: int) -> Manifest:
    """Read a manifest's bytes; ValueError says what is wrong with them."""
    header, payload = content[: MANIFEST_HEADER.size], content[MANIFEST_HEADER.size :]
    if len(header) < MANIFEST_HEADER.size:
        raise ValueError(f"it has {len(header)} bytes, fewer than its header")
    magic, version, payload_bytes, stored, owner = MANIFEST_HEADER.unpack(header)
    if payload_bytes != len(payload):
        raise ValueError(f"{payload_bytes} bytes should follow its header, not {len(payload)}")
    if _checksum(header, payload) != stored:
        raise ValueError("its checksum is wrong")
    if magic != MANIFEST_MAGIC or version != MANIFEST_VERSION:
        raise ValueError(
            f"it says {magic!r} version {version}; this flowd reads {MANIFEST_MAGIC!r}"
            f" version {MANIFEST_VERSION}"
        )
    if (found := LogIdentity.unpack(owner)) != identity:
        raise ValueError(f"it belongs to {found}; expected was {identity}")
    manifest = msgspec.msgpack.decode(payload, type=Manifest)
    if manifest.number != number:
        raise ValueError(f"it says that its number is {manifest.number}")
    return manifest
