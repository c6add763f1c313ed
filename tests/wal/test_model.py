"""A log and a plain list, given the same calls, agree."""

import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from flowd.errors import WalFull
from flowd.wal import LogEntry, RecordType
from flowd.wal.format import SEAL_BYTES, SEGMENT_HEADER, record_bytes
from tests.faulty_files import Fault, FaultyFileSystem, disk_full
from tests.wal.logs import Log, Read, as_read, open_log, payload, segment_ids

RECORDS = st.tuples(
    st.sampled_from([t for t in RecordType if t is not RecordType.SEAL]),
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, 1, 7, 8, 9, 100, 400, 1500]),
)


class LogAgainstList(RuleBasedStateMachine):
    """`records` is the model: what the log holds, the dropped ones included."""

    @initialize(segment_bytes=st.sampled_from([256, 1024, 4096]))
    def start(self, segment_bytes: int) -> None:
        self.temporary = tempfile.TemporaryDirectory()
        self.directory = Path(self.temporary.name)
        self.segment_bytes = segment_bytes
        self.new_segment_id = segment_ids()
        self.files = FaultyFileSystem()
        self.records: list[Read] = []
        self.waiting: list[LogEntry] = []
        self.dropped = 0
        self.log = self.open(from_lsn=1)

    def open(self, from_lsn: int) -> Log:
        return open_log(
            self.directory,
            files=self.files,
            from_lsn=from_lsn,
            proven_lsn=max(from_lsn - 1, len(self.records) // 2),
            segment_bytes=self.segment_bytes,
            new_segment_id=self.new_segment_id,
        )

    @rule(group=st.lists(RECORDS, max_size=6))
    def append(self, group) -> None:
        first_lsn = self.log.writer.next_lsn + len(self.waiting)
        self.waiting += [
            LogEntry(lsn, record_type, shards, (payload(lsn, size),))
            for lsn, (record_type, shards, size) in enumerate(group, first_lsn)
        ]
        try:
            self.log.writer.append(self.waiting)
        except WalFull:
            assert self.files.fault is not None
        written = self.log.writer.written_lsn
        self.records += as_read(e for e in self.waiting if e.lsn <= written)
        self.waiting = [e for e in self.waiting if e.lsn > written]

    @rule()
    def sync(self) -> None:
        self.log.writer.sync()
        assert self.log.writer.synced_lsn == len(self.records)

    @rule()
    def fill_disk(self) -> None:
        self.files.fault = Fault("allocate", 1, disk_full(), lasting=True)

    @rule()
    def free_disk(self) -> None:
        self.files.fault = None
        assert self.log.writer.prepare_spare()
        self.append([])
        assert not self.waiting

    @rule(part=st.floats(0, 1))
    def drop(self, part: float) -> None:
        self.dropped += round(part * (len(self.records) - self.dropped))
        self.log.writer.drop_before(self.dropped + 1)

    @rule(closed=st.booleans(), part=st.floats(0, 1))
    def reopen(self, closed: bool, part: float) -> None:
        if closed:
            self.log.writer.close()
        self.waiting = []
        from_lsn = self.dropped + 1 + round(part * (len(self.records) - self.dropped))
        self.log = self.open(from_lsn)
        assert self.log.replayed == self.records[from_lsn - 1 :]
        assert self.log.recovery.torn_bytes == 0
        assert self.log.writer.synced_lsn == len(self.records)

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def counts_agree(self) -> None:
        writer = self.log.writer
        assert writer.next_lsn == writer.written_lsn + 1 == len(self.records) + 1
        assert writer.synced_lsn <= writer.written_lsn

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def size_is_that_of_the_records_from_the_first_segment_on(self) -> None:
        first_lsns = [int(path.stem) for path in sorted(self.directory.glob("*.wal"))]
        if not first_lsns:
            assert self.log.writer.size_bytes == 0
            return
        assert first_lsns[0] <= self.dropped + 1
        held = sum(record_bytes(len(r.payload)) for r in self.records[first_lsns[0] - 1 :])
        size_bytes = held + len(first_lsns) * (SEGMENT_HEADER.size + SEAL_BYTES)
        assert self.log.writer.size_bytes in (size_bytes, size_bytes - SEAL_BYTES)

    def teardown(self) -> None:
        if hasattr(self, "temporary"):
            self.log.writer.close()
            self.temporary.cleanup()


LogAgainstList.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLogAgainstList = LogAgainstList.TestCase
