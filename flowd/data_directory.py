"""The data directory: who owns it, and what it is.

`flowd.json` says how many shards the data is divided among and by which seed; both are fixed for a
generation, because every row lies where they put it. It is checksummed and replaced atomically; it
is made before anything else, so that data without it is damage and never a reason to make a new
one. The lock is held by the supervisor for as long as it lives.

    data/LOCK  data/flowd.json  data/gen-1/shard-00/…
"""

import errno
import os
import secrets
from pathlib import Path
from typing import Annotated, Final, Self

import google_crc32c
import msgspec
from msgspec import Meta

from flowd.errors import ConfigError, FlowdError
from flowd.filesystem import DirectoryLock, FileSystem, write_atomically
from flowd.flow import SHARDS_MAX

FORMAT_VERSION: Final = 1
SHARDS_DEFAULT: Final = 2
"""How many shards a new directory gets when nobody says."""

IDENTITY_NAME: Final = "flowd.json"
LOCK_NAME: Final = "LOCK"


class Identity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `flowd.json` says, its checksum apart.

    Attributes:
        format_version: of everything in the directory.
        generation: which division into shards this is; resharding makes the next.
        shards: how many there are, 1 … 64.
        seed: the shard hash's, 0 … 2**64 - 1, as 16 hexadecimal digits: JSON readers round such
            numbers.
        directory_id: 16 random bytes, in hexadecimal; every file of the directory carries them.
    """

    format_version: int = FORMAT_VERSION
    generation: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    shards: Annotated[int, Meta(ge=1, le=SHARDS_MAX)]
    seed: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
    directory_id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]

    @property
    def seed_number(self) -> int:
        """The seed as the number that the kernel takes."""
        return int(self.seed, 16)

    @property
    def directory_id_bytes(self) -> bytes:
        """The directory's id as files carry it: 16 bytes."""
        return bytes.fromhex(self.directory_id)


class _IdentityFile(Identity, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`flowd.json` itself; the checksum is the CRC32C of the other members, encoded compactly."""

    checksum: str


class _Version(msgspec.Struct):
    format_version: int


class DataDirectory:
    """A data directory that this process owns.

    Args:
        path: where it is, absolute.
        identity: what it is.
        lock: what keeps every other flowd out.
    """

    def __init__(self, path: Path, identity: Identity, lock: DirectoryLock) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock

    @classmethod
    def open(cls, files: FileSystem, path: Path, shards: int | None) -> Self:
        """Lock a data directory, making it when there is none.

        Args:
            files: where.
            path: the directory; missing parents are made.
            shards: how many shards it should have; None for as many as it has.

        Raises:
            ConfigError: it is damaged, no data directory, divided among another number of shards,
                or can be none.
            FlowdError: another flowd has it, or the disk refuses.
        """
        path = path.absolute()
        try:
            files.make_dir(path)
            lock = DirectoryLock.acquire(path / LOCK_NAME)
        except OSError as error:
            raise _refusal(path, error) from error
        if lock is None:
            raise FlowdError(f"{path}: another flowd is running on this data directory")
        try:
            return cls(path, _read_or_make(files, path, shards), lock)
        except OSError as error:
            lock.release()
            raise _refusal(path, error) from error
        except FlowdError:
            lock.release()
            raise

    def close(self) -> None:
        """Give the directory up."""
        self._lock.release()


def inspect_data_directory(files: FileSystem, path: Path, shards: int | None) -> Identity | None:
    """Tell what a data directory is, without making, changing or locking anything.

    Args:
        files: where.
        path: the directory.
        shards: how many shards it should have; None for as many as it has.

    Returns:
        None when it would be a new one.

    Raises:
        ConfigError: `DataDirectory.open` would refuse it for good.
        FlowdError: the disk refuses.
    """
    path = path.absolute()
    try:
        existing = next(p for p in (path, *path.parents) if p.exists() or p.is_symlink())
        if not existing.is_dir():
            raise ConfigError(f"{path}: cannot be used as data_dir: {existing} is no directory")
        if not os.access(existing, os.R_OK | os.W_OK | os.X_OK):
            raise ConfigError(f"{path}: cannot be used as data_dir: no access to {existing}")
        if files.exists(path / IDENTITY_NAME):
            return _read(files, path, shards)
        if existing == path:
            _check_unused(files, path)
    except OSError as error:
        raise _refusal(path, error) from error
    return None


def shard_directory(path: Path, generation: int, shard: int) -> Path:
    """Tell where a shard's files are."""
    return path / f"gen-{generation}" / f"shard-{shard:02}"


def _read_or_make(files: FileSystem, path: Path, shards: int | None) -> Identity:
    if files.exists(path / IDENTITY_NAME):
        return _read(files, path, shards)
    _check_unused(files, path)
    return _make(files, path, shards)


def _read(files: FileSystem, path: Path, shards: int | None) -> Identity:
    identity = _decode(path / IDENTITY_NAME, files.read_bytes(path / IDENTITY_NAME))
    if shards is not None and shards != identity.shards:
        raise ConfigError(
            f"{path}: divided among {identity.shards} shards, not shards = {shards}; leave the "
            "setting out, the number is kept with the data"
        )
    return identity


def _check_unused(files: FileSystem, path: Path) -> None:
    expected = {LOCK_NAME, IDENTITY_NAME + ".tmp", "lost+found"}
    foreign = [
        name
        for name in files.list_dir(path)
        if name not in expected and name[0] != "." and not _is_unused_generation(files, path / name)
    ]
    if foreign:
        raise ConfigError(
            f"{path}: holds {foreign[0]} but no {IDENTITY_NAME}: if this is a data directory, "
            f"restore {IDENTITY_NAME} from a backup; if not, give flowd an empty directory"
        )


def _is_unused_generation(files: FileSystem, path: Path) -> bool:
    """Tell whether a creation that was cut short left this behind."""
    if path.name != "gen-1":
        return False
    return not any(files.list_dir(path / name) for name in files.list_dir(path))


def _make(files: FileSystem, path: Path, shards: int | None) -> Identity:
    identity = Identity(
        generation=1,
        shards=shards or SHARDS_DEFAULT,
        seed=secrets.token_hex(8),
        directory_id=secrets.token_hex(16),
    )
    # Before flowd.json, so that from then on a missing one is damage and never taken for empty.
    for shard in range(identity.shards):
        files.make_dir(shard_directory(path, identity.generation, shard))
    write_atomically(files, path / IDENTITY_NAME, [_encode(identity)])
    return identity


def _encode(identity: Identity) -> bytes:
    members = msgspec.structs.asdict(identity)
    content = msgspec.json.encode(members | {"checksum": _checksum(identity)})
    return msgspec.json.format(content, indent=2) + b"\n"


def _decode(path: Path, content: bytes) -> Identity:
    try:
        version = msgspec.json.decode(content, type=_Version).format_version
        if version != FORMAT_VERSION:
            raise ConfigError(
                f"{path}: format {version}, but this flowd reads format {FORMAT_VERSION}; "
                "run the version that wrote it"
            )
        found = msgspec.json.decode(content, type=_IdentityFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: damaged: {error}; restore it from a backup") from None
    members = msgspec.structs.asdict(found)
    checksum = members.pop("checksum")
    identity = Identity(**members)
    if checksum != _checksum(identity):
        raise ConfigError(f"{path}: damaged: the checksum does not match; restore it from a backup")
    return identity


def _checksum(identity: Identity) -> str:
    return f"{google_crc32c.value(msgspec.json.encode(identity)):08x}"


def _refusal(path: Path, error: OSError) -> FlowdError:
    """Tell what will fail again from what may have passed by the next start."""
    kind = ConfigError if error.errno in _LASTING else FlowdError
    return kind(f"{path}: cannot be used as data_dir: {error.strerror}")


_LASTING: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EPERM,
        errno.EROFS,
    }
)
