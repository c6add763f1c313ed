"""N stores in one process, fed as a router would: for tests of what a shard keeps."""

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from flowd.config import CheckpointConfig, Config, LimitsConfig, WalConfig
from flowd.filesystem import FileSystem, LocalFileSystem
from flowd.flow import COUNTER_MAX
from flowd.kernel import BodyFormat, load_kernel
from flowd.kernel.interface import Kernel
from flowd.protocol import AppendHeader
from flowd.query import AnswerFormat, Query
from flowd.store import Store
from flowd.wal import LogIdentity

SEED = 0x5EED
DIRECTORY_ID = bytes(range(16))
SMALL = Config(
    wal=WalConfig(segment_bytes=64 * 1024),
    checkpoint=CheckpointConfig(log_bytes=64 * 1024),
    limits=LimitsConfig(free_disk_bytes=0),
)

KERNELS = [load_kernel("reference")]
if importlib.util.find_spec("flowd._native") is not None:
    KERNELS.append(load_kernel("native"))

Flow = Mapping[str, Any]
Totals = dict[tuple[int, str, str, str], tuple[int, int]]


def plain_sum(flows: Iterable[Flow]) -> Totals:
    """Sum flows with a dictionary: what every answer has to equal."""
    totals: Totals = {}
    for flow in flows:
        key = (flow["hour"], flow["vpc_id"], flow["src_app"], flow["dest_app"])
        tx, rx = totals.get(key, (0, 0))
        totals[key] = (
            min(tx + flow["bytes_tx"], COUNTER_MAX),
            min(rx + flow["bytes_rx"], COUNTER_MAX),
        )
    return totals


class Shards:
    """All shards of one small flowd."""

    def __init__(
        self,
        directory: Path,
        count: int,
        config: Config = SMALL,
        files: FileSystem | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self.kernel = kernel or KERNELS[0]
        self.count = count
        self.config = config
        self.files = files or LocalFileSystem()
        self.directory = directory
        self.stores: list[Store] = []
        self.open()

    def open(self) -> None:
        self.stores = [self.open_one(shard) for shard in range(self.count)]

    def open_one(self, shard: int) -> Store:
        path = self.directory / f"shard-{shard:02}"
        self.files.make_dir(path)
        identity = LogIdentity(DIRECTORY_ID, 1, shard, self.count)
        return Store.open(self.files, path, identity, self.kernel, self.config)

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def post(self, flows: list[dict[str, Any]], batch_id: int = 0) -> list[bool]:
        """Store a batch; tells of each touched shard whether it called it a duplicate."""
        split = self.kernel.split(
            msgspec.json.encode(flows),
            BodyFormat.JSON,
            shard_count=self.count,
            seed=SEED,
            flows_max=100_000,
            skip_bad=False,
        )
        bitmap = sum(1 << shard for shard in split.frames)
        header = AppendHeader(batch_id, 0, 0, bitmap)
        return [
            self.stores[shard].append(header, frame).duplicate
            for shard, frame in split.frames.items()
        ]

    def rows(self, rows_a_page: int = 7) -> Iterator[dict[str, Any]]:
        """All rows, merged as a router would."""
        query = Query(hour_from=0, hour_to=2**32)
        merger = self.kernel.new_merger(self.count, AnswerFormat.NDJSON, query.group, None)
        text = b""
        while not merger.done:
            for source in merger.wanted():
                pages, last = self.stores[source].shard.page(
                    query, merger.fed_to(source), rows_a_page
                )
                merger.feed(source, pages, last)
            text += merger.drain()
        return (msgspec.json.decode(line) for line in text.splitlines())

    def totals(self) -> Totals:
        found: Totals = {}
        for row in self.rows():
            key = (row["hour"], row["vpc_id"], row["src_app"], row["dest_app"])
            assert key not in found
            found[key] = (row["bytes_tx"], row["bytes_rx"])
        return found

    def digest(self) -> int:
        return (
            sum(
                int(bucket.digest or "0", 16)
                for store in self.stores
                for bucket in store.shard.buckets(digest=True)
            )
            % 2**128
        )
