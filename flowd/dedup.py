"""The ids of keyed batches that a shard has stored, so that a retry is counted once.

An id is remembered from the moment its log record is durable; while the record is on its way the
id is in flight and a second copy waits for the same sync. Ids are 128-bit numbers from
`Kernel.batch_id`; 0 means un-keyed and is never remembered. Pure: what is remembered travels in log
records and manifests, not here.
"""

import struct

from flowd.errors import FrameError

_ID = struct.Struct("<16sQ")
ID_BYTES = _ID.size
"""What an id costs in a manifest: the id, and the time in its key in milliseconds."""


class BatchIds:
    """Remembered and in-flight ids of one shard."""

    def __init__(self) -> None:
        self._key_time_ms: dict[int, int] = {}
        self._in_flight: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._key_time_ms)

    def __contains__(self, batch_id: int) -> bool:
        return batch_id in self._key_time_ms

    def in_flight_lsn(self, batch_id: int) -> int | None:
        """Tell the LSN of the record that is on its way with this id, if one is."""
        return self._in_flight.get(batch_id)

    def start(self, batch_id: int, lsn: int) -> None:
        """Note that a record with this id was given an LSN."""
        self._in_flight[batch_id] = lsn

    def remember(self, batch_id: int, key_time_ms: int) -> None:
        """Note that the record with this id is durable; a known id is left as it is."""
        self._in_flight.pop(batch_id, None)
        self._key_time_ms.setdefault(batch_id, key_time_ms)

    def dump(self) -> bytes:
        """Give the remembered ids in the manifest's encoding, `ID_BYTES` each."""
        pack = _ID.pack
        return b"".join(
            pack(batch_id.to_bytes(16, "little"), key_time_ms)
            for batch_id, key_time_ms in self._key_time_ms.items()
        )

    def load(self, content: bytes) -> None:
        """Remember what `dump` gave.

        Raises:
            FrameError: the length is not a multiple of `ID_BYTES`.
        """
        if len(content) % ID_BYTES:
            raise FrameError(f"batch ids take {ID_BYTES} bytes each, not {len(content)} in all")
        for batch_id, key_time_ms in _ID.iter_unpack(content):
            self.remember(int.from_bytes(batch_id, "little"), key_time_ms)
