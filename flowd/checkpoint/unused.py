"""Removes what no kept manifest needs any more."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from flowd.checkpoint.bucket_file import BUCKET_DIRECTORY
from flowd.checkpoint.manifest import Manifest, list_manifests, manifest_name
from flowd.filesystem import FileSystem

MANIFESTS_KEPT: Final = 2


def remove_unused(files: FileSystem, directory: Path, manifests: Sequence[Manifest]) -> None:
    """Remove older manifests, files that no kept manifest names, and what was never finished.

    The two newest of `manifests` are kept. As long as a manifest that is not among these, a damaged
    one for example, is not older than both, it stays, and so does every bucket file, because some
    may be its own. No checkpoint may be under way.

    Args:
        files: the disk.
        directory: the shard's; `buckets` in it exists.
        manifests: sound ones, newest first.

    Raises:
        OSError: the disk is broken; what is in force is untouched.
    """
    kept = sorted(manifests, key=lambda manifest: -manifest.number)[:MANIFESTS_KEPT]
    numbers = {manifest.number for manifest in kept}
    older = []
    if len(kept) == MANIFESTS_KEPT:
        older = [n for n in list_manifests(files, directory) if n < min(numbers)]
    # Manifests go first, for good: none may ever be found that names a removed file.
    _remove(files, directory, [*map(manifest_name, older), *_unfinished(files, directory)])
    buckets = directory / BUCKET_DIRECTORY
    unused = _unfinished(files, buckets)
    if set(list_manifests(files, directory)) == numbers:
        named = {file.name for manifest in kept for file in manifest.files}
        unused += [
            name for name in files.list_dir(buckets) if name.endswith(".tbl") and name not in named
        ]
    _remove(files, buckets, unused)


def _unfinished(files: FileSystem, directory: Path) -> list[str]:
    return [name for name in files.list_dir(directory) if name.endswith(".tmp")]


def _remove(files: FileSystem, directory: Path, names: Sequence[str]) -> None:
    for name in names:
        files.unlink(directory / name)
    if names:
        files.sync_dir(directory)
