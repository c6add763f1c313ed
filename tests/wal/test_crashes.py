"""Power cuts, killed processes and failing syncs on a disk that keeps only what was synced."""

import contextlib
import itertools
import random
from collections import Counter
from pathlib import Path

import pytest

from flowd.errors import WalPoisoned
from flowd.wal import LogEntry
from tests.faulty_files import Killed
from tests.lossy_files import LossyFileSystem
from tests.wal.logs import Log, Read, as_read, entry, open_log, segment_ids

DIRECTORY = Path("/wal")
SEGMENT_BYTES = 4096


class Machine:
    """One disk and the processes that use it one after the other.

    acknowledged: what any process was told to be durable.
    floor: records up to here may be gone, they were given up with `drop_before`.
    """

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.files = LossyFileSystem(Killed())
        self.acknowledged: list[Read] = []
        self.floor = 0
        self.events: Counter[str] = Counter()
        self._new_segment_id = segment_ids()

    def start(self) -> Log:
        """Recover, and check that nothing that was acknowledged is missing or changed."""
        log = open_log(
            DIRECTORY,
            files=self.files,
            from_lsn=self.floor + 1,
            proven_lsn=self.rng.choice((0, self.floor, len(self.acknowledged))),
            segment_bytes=SEGMENT_BYTES,
            new_segment_id=self._new_segment_id,
        )
        expected = self.acknowledged[self.floor :]
        assert log.replayed[: len(expected)] == expected
        assert log.lsns == list(range(self.floor + 1, log.writer.next_lsn))
        self.events["torn"] += log.recovery.torn_bytes > 0
        self.events["survived unasked"] += len(log.replayed) > len(expected)
        # Recovery made all of it durable, so that it may be shown to readers from now on.
        self.acknowledged[self.floor :] = log.replayed
        return log

    def work(self, log: Log) -> None:
        """Append groups until something stops it."""
        writer = log.writer
        unsynced: list[LogEntry] = []
        while True:
            sizes = [
                self.rng.choice((0, 20, 300, 900, 6000)) for _ in range(self.rng.choice((1, 3)))
            ]
            entries = [entry(lsn, size) for lsn, size in enumerate(sizes, writer.next_lsn)]
            # Another history may have had other records with these LSNs.
            marked = [e._replace(shards=self.rng.getrandbits(64)) for e in entries]
            writer.append(marked)
            if self.rng.random() < 0.9:
                writer.sync()
                self.acknowledged += as_read([*unsynced, *marked])
                unsynced = []
            else:
                unsynced += marked
            if self.rng.random() < 0.1 and len(self.acknowledged) > self.floor:
                self.floor = self.rng.randint(self.floor, len(self.acknowledged))
                writer.drop_before(self.floor + 1)


def test_a_torn_tail_or_its_copy_is_on_disk_at_any_moment():
    log = open_log(DIRECTORY, files=(files := LossyFileSystem()))
    log.writer.append([entry(1, 20), entry(2, 300)])
    log.writer.sync()
    name = f"{1:020}.wal"
    content = bytearray(files.contents(DIRECTORY)[name])
    content[150] ^= 1
    torn = bytes(content[136:]).rstrip(b"\0")
    for first_stop, second_stop in itertools.product(range(14), repeat=2):
        files = LossyFileSystem(Killed())
        files.load(DIRECTORY, {name: bytes(content)})
        for files.steps_left in (first_stop, second_stop):
            with contextlib.suppress(Killed):
                open_log(DIRECTORY, files=files)
        files.power_cut()
        after = files.contents(DIRECTORY)
        copy = after.get(f"{name}.broken-136", b"")
        assert torn in (copy, after[name][136 : 136 + len(torn)])
    assert torn == copy


def live(machine: Machine, lives: int) -> None:
    rng = machine.rng
    for _ in range(lives):
        machine.files.syncs_fail = False
        machine.files.steps_left = rng.randint(0, 60)
        try:
            log = machine.start()
            if rng.random() < 0.3:
                machine.files.syncs_fail = True
            machine.work(log)
        except Killed:
            machine.events["killed"] += 1
        except WalPoisoned:
            machine.events["poisoned"] += 1
        if rng.random() < 0.5:
            machine.events["power cut"] += 1
            machine.files.power_cut(rng)
    machine.files.syncs_fail = False
    machine.files.steps_left = None
    machine.start()
    machine.files.power_cut(rng)
    machine.start()


@pytest.mark.parametrize("first_seed", range(0, 400, 50))
def test_whatever_stops_a_process_no_acknowledged_record_is_lost(first_seed):
    events: Counter[str] = Counter()
    for seed in range(first_seed, first_seed + 50):
        machine = Machine(seed)
        try:
            live(machine, lives=12)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        events += machine.events
    assert set(events) == {"torn", "survived unasked", "killed", "poisoned", "power cut"}
