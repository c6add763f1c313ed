"""A router's line to a worker, against a peer on a real socket that stops, lies and goes away."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from structlog.testing import capture_logs

from flowd.errors import (
    FrameError,
    OutcomeUnknown,
    Overloaded,
    ProtocolError,
    ShardUnavailable,
    TooLarge,
)
from flowd.kernel import BodyFormat, load_kernel
from flowd.protocol import (
    FRAME_BYTES_MAX,
    AppendHeader,
    Message,
    MessageType,
    QueryRequest,
    Status,
    pack,
)
from flowd.query import Query
from flowd.worker_client import Patience, WorkerClient
from tests.peer import BOOT, Peer, until

KERNEL = load_kernel("reference")
UNKEYED = AppendHeader(batch_id=0, key_time_ms=0, arrival_ms=1, shards=1)
ALL = QueryRequest(Query(hour_from=0, hour_to=2**32), None, 100)
SHORT = Patience(append_seconds=0.1, read_seconds=0.1, silence_seconds=10.0)


def frame_of(flows: int, name: str = "a") -> bytes:
    """A frame of flows that make a row each."""
    members = '"vpc_id":"v","bytes_tx":1,"bytes_rx":2,"hour":91'
    body = ",".join(f'{{"src_app":"{name}{i}","dest_app":"b",{members}}}' for i in range(flows))
    split = KERNEL.split(
        f"[{body}]".encode(),
        BodyFormat.JSON,
        shard_count=1,
        seed=1,
        flows_max=100_000,
        skip_bad=False,
    )
    return split.frames[0]


@pytest.fixture
def socket_path() -> Iterator[Path]:
    # Not tmp_path: with a long test name a socket's path grows over the system's 107 bytes.
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory) / "worker-0.sock"


@pytest.fixture
async def peer(socket_path: Path) -> AsyncIterator[Peer]:
    async with Peer(socket_path) as peer:
        yield peer


@asynccontextmanager
async def connected_client(
    path: Path, patience: Patience | None = None
) -> AsyncIterator[WorkerClient]:
    client = WorkerClient(path, shard=0, shard_count=1, boot=BOOT, patience=patience)
    client.start()
    try:
        await until(lambda: client.connected)
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def peer_process(path: Path, *held: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.peer", str(path), *held
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# What works.


async def test_an_append_is_acknowledged_and_its_counts_are_the_new_status(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        appended = await client.append(UNKEYED, frame_of(3))

        assert appended.duplicate is False
        assert peer.shard.rows == 3
        assert client.status == Status(writable=True, rows=3, name_bytes=peer.shard.name_bytes)


async def test_a_second_append_of_a_batch_is_told_to_be_a_duplicate(peer: Peer) -> None:
    keyed = msgspec.structs.replace(UNKEYED, batch_id=2**127 + 1)
    async with connected_client(peer.path) as client:
        first = await client.append(keyed, frame_of(3))
        second = await client.append(keyed, frame_of(3))

    assert (first.duplicate, second.duplicate) == (False, True)
    assert peer.shard.buckets(digest=False)[0].bytes_tx == 3


async def test_every_request_gets_its_own_answer_in_whatever_order_they_come(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        await client.append(UNKEYED, frame_of(3))
        peer.hold(MessageType.PROBE, MessageType.QUERY, MessageType.BUCKETS)
        known = client.probe(frame_of(2))
        new = client.probe(frame_of(5, "other"))
        page = client.query(ALL)
        sums = client.buckets(digest=True)
        await until(lambda: len(peer.requests) == 5)
        peer.release()

        assert await known == 0
        assert await new == 5
        assert await page == peer.shard.page(ALL.query, None, 100)
        assert await sums == peer.shard.buckets(digest=True)


async def test_frames_of_megabytes_pass(peer: Peer) -> None:
    peer.hold(MessageType.PROBE)
    async with connected_client(peer.path) as client:
        frame = bytes(8 << 20)
        answer = client.probe(frame)
        await until(lambda: peer.count(MessageType.PROBE) == 1)
        peer.release()
        with pytest.raises(FrameError):
            await answer


async def test_what_the_worker_says_unasked_is_the_new_status(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        assert client.status.writable

        peer.push_status(writable=False, full_reason="disk", rows=9)
        await until(lambda: not client.status.writable)

        assert client.status == Status(writable=False, full_reason="disk", rows=9)


async def test_an_acknowledgement_does_not_make_a_full_worker_writable(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        peer.hold(MessageType.APPEND)
        appended = client.append(UNKEYED, frame_of(1))
        peer.push_status(writable=False, full_reason="disk")
        await until(lambda: not client.status.writable)
        peer.release()
        await appended

        assert (client.status.writable, client.status.full_reason) == (False, "disk")
        assert client.status.rows == 1


def test_it_works_on_uvloop_as_well(socket_path: Path) -> None:
    async def run() -> None:
        async with Peer(socket_path) as peer, connected_client(peer.path) as client:
            await client.append(UNKEYED, frame_of(3))
            assert len((await client.query(ALL)).pages) == 1
            peer.hold(MessageType.APPEND)
            lost = client.append(UNKEYED, frame_of(1))
            await until(lambda: peer.count(MessageType.APPEND) == 2)
            peer.drop()
            with pytest.raises(OutcomeUnknown):
                await lost
            await until(lambda: client.connected)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


# Workers that are not there.


async def test_without_a_worker_everything_is_refused(socket_path: Path) -> None:
    client = WorkerClient(socket_path, shard=7, shard_count=8, boot=BOOT)
    client.start()
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: client.append(UNKEYED, b"frame"),
        lambda: client.probe(b"frame"),
        lambda: client.query(ALL),
        lambda: client.buckets(digest=False),
    ]
    for call in calls:
        with pytest.raises(ShardUnavailable, match="shard 7") as raised:
            await call()
        assert raised.value.shards == (7,)
    await client.close()


async def test_a_worker_that_comes_late_is_found(socket_path: Path) -> None:
    client = WorkerClient(socket_path, shard=0, shard_count=1, boot=BOOT)
    client.start()
    client.start()
    with capture_logs() as events:
        await until(lambda: bool(events))
        async with Peer(socket_path) as peer:
            await until(lambda: client.connected)

            assert len(peer.connections) == 1
            await client.close()
    assert [event["event"] for event in events] == ["worker_unavailable", "worker_connected"]


async def test_a_client_that_was_never_started_can_be_closed(socket_path: Path) -> None:
    client = WorkerClient(socket_path, shard=0, shard_count=1, boot=BOOT)

    await client.close()

    assert not client.connected


async def test_an_append_on_a_lost_connection_is_of_unknown_outcome(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        peer.hold(MessageType.APPEND)
        appended = client.append(UNKEYED, frame_of(1))
        await until(lambda: peer.count(MessageType.APPEND) == 1)
        peer.drop()

        with pytest.raises(OutcomeUnknown, match="shard 0 went away") as raised:
            await appended
        assert raised.value.shards == (0,)


async def test_reads_on_a_lost_connection_are_unavailable(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        peer.hold(MessageType.PROBE, MessageType.QUERY, MessageType.BUCKETS)
        reads: list[Awaitable[Any]] = [
            client.probe(frame_of(1)),
            client.query(ALL),
            client.buckets(digest=False),
        ]
        await until(lambda: len(peer.requests) == 3)
        peer.drop()

        for read in reads:
            with pytest.raises(ShardUnavailable, match="shard 0 went away"):
                await read


async def test_a_lost_connection_is_made_again_and_the_last_status_kept_meanwhile(
    peer: Peer,
) -> None:
    async with connected_client(peer.path) as client:
        await client.append(UNKEYED, frame_of(3))
        await peer.stop()
        await until(lambda: not client.connected)
        assert client.status.rows == 3

        async with Peer(peer.path) as successor:
            await until(lambda: client.connected)
            assert client.status.rows == 0
            await client.append(UNKEYED, frame_of(1))
            assert successor.shard.rows == 1


async def test_a_worker_killed_in_mid_append_leaves_the_outcome_unknown(socket_path: Path) -> None:
    async with (
        peer_process(socket_path, "APPEND") as process,
        connected_client(socket_path) as client,
    ):
        appended = client.append(UNKEYED, frame_of(1))
        await client.probe(frame_of(1))  # answered behind it, so the append is there
        process.kill()

        with pytest.raises(OutcomeUnknown):
            await appended
        with pytest.raises(ShardUnavailable):
            client.check(1)


async def test_a_frozen_worker_gets_no_more_requests_until_it_thaws(socket_path: Path) -> None:
    patience = Patience(silence_seconds=0.1)
    async with (
        peer_process(socket_path) as process,
        connected_client(socket_path, patience) as client,
    ):
        process.send_signal(signal.SIGSTOP)
        appended = client.append(UNKEYED, frame_of(1))
        await until(lambda: not client.connected)
        with pytest.raises(ShardUnavailable):
            client.append(UNKEYED, frame_of(1))
        assert not appended.done()

        process.send_signal(signal.SIGCONT)
        await until(lambda: client.connected)
        assert (await appended).rows == 1


async def test_a_worker_that_is_slow_to_sync_but_alive_stays_connected(peer: Peer) -> None:
    peer.hold(MessageType.APPEND)
    async with connected_client(peer.path, Patience(silence_seconds=0.02)) as client:
        appended = client.append(UNKEYED, frame_of(1))
        # Several times its silence passes, and it answers each PING.
        await until(lambda: peer.count(MessageType.PING) >= 5)

        assert client.connected
        peer.release()
        await appended


async def test_closing_the_client_fails_what_is_unanswered(peer: Peer) -> None:
    peer.hold(MessageType.APPEND)
    async with connected_client(peer.path) as client:
        appended = client.append(UNKEYED, frame_of(1))
    with pytest.raises(OutcomeUnknown):
        await appended
    assert not client.connected


# Workers that do not answer.


async def test_an_append_that_is_never_answered_is_of_unknown_outcome(peer: Peer) -> None:
    peer.hold(MessageType.APPEND)
    async with connected_client(peer.path, SHORT) as client:
        with pytest.raises(OutcomeUnknown, match="did not answer in time"):
            await client.append(UNKEYED, frame_of(1))

        with pytest.raises(Overloaded):
            client.check(SHORT.unanswered_bytes)  # the worker may hold it still
        peer.release()
        await until(lambda: _has_credit(client))
        assert client.connected
        assert await client.probe(frame_of(1)) == 0


def _has_credit(client: WorkerClient) -> bool:
    try:
        client.check(SHORT.unanswered_bytes)
    except Overloaded:
        return False
    return True


async def test_a_read_that_is_never_answered_is_unavailable(peer: Peer) -> None:
    peer.hold(MessageType.QUERY)
    async with connected_client(peer.path, SHORT) as client:
        with pytest.raises(ShardUnavailable, match="did not answer in time"):
            await client.query(ALL)


async def test_an_answer_that_comes_too_late_is_passed_over(peer: Peer) -> None:
    peer.hold(MessageType.APPEND)
    async with connected_client(peer.path, SHORT) as client:
        with pytest.raises(OutcomeUnknown):
            await client.append(UNKEYED, frame_of(1))
        peer.release()

        assert await client.probe(frame_of(1)) == 0
        assert client.connected
        assert len(peer.connections) == 1


async def test_a_wait_that_is_cancelled_does_not_take_the_append_back(peer: Peer) -> None:
    peer.hold(MessageType.APPEND)
    patience = Patience(unanswered_bytes=1)
    async with connected_client(peer.path, patience) as client:
        waiting = asyncio.ensure_future(client.append(UNKEYED, frame_of(1)))
        await until(lambda: peer.count(MessageType.APPEND) == 1)
        waiting.cancel()
        with pytest.raises(Overloaded):
            client.check(1)
        peer.release()
        await client.query(ALL)

        assert peer.shard.rows == 1
        client.check(1)


async def test_a_request_that_nobody_waits_for_ends_in_silence(
    peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    peer.hold(MessageType.APPEND)
    async with connected_client(peer.path) as client:
        waiting = client.append(UNKEYED, frame_of(1))
        waiting.cancel()
        del waiting
        client.append(UNKEYED, frame_of(1))
        await until(lambda: peer.count(MessageType.APPEND) == 2)
        peer.drop()
        await until(lambda: not client.connected)

    assert "never retrieved" not in caplog.text


# Limits.


async def test_frames_that_are_not_acknowledged_are_bounded(peer: Peer) -> None:
    peer.hold(MessageType.APPEND)
    frame = frame_of(10)
    patience = Patience(unanswered_bytes=2 * len(frame))
    async with connected_client(peer.path, patience) as client:
        under_way = [client.append(UNKEYED, frame), client.append(UNKEYED, frame)]
        with pytest.raises(Overloaded, match="shard 0 cannot keep up") as raised:
            client.append(UNKEYED, frame)
        assert raised.value.reason == "backpressure"
        reading = client.query(ALL)
        await reading

        peer.release()
        for future in under_way:
            await future
        await client.append(UNKEYED, frame)
    assert peer.count(MessageType.APPEND) == 3


async def test_one_frame_over_the_bound_passes_when_it_is_alone(peer: Peer) -> None:
    async with connected_client(peer.path, Patience(unanswered_bytes=1)) as client:
        await client.append(UNKEYED, frame_of(10))

    assert peer.shard.rows == 10


async def test_a_frame_that_fits_no_message_is_too_large(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        client.check(FRAME_BYTES_MAX)
        with pytest.raises(TooLarge, match="268,435,417 bytes"):
            client.check(FRAME_BYTES_MAX + 1)


# Workers that are not what they should be.


@pytest.mark.parametrize(
    ("shard", "shard_count", "boot", "version"),
    [(1, 2, "b007", 1), (0, 2, "b007", 1), (0, 1, "bad", 1), (0, 1, "b007", 2)],
    ids=["another shard", "another count", "another boot", "another version"],
)
async def test_a_worker_that_is_not_the_wanted_one_is_not_used(
    socket_path: Path, shard: int, shard_count: int, boot: str, version: int
) -> None:
    client = WorkerClient(socket_path, shard=0, shard_count=1, boot=BOOT)
    impostor = Peer(socket_path, shard, shard_count, boot=boot, version=version)
    with capture_logs() as events:
        async with impostor:
            client.start()
            await until(lambda: bool(events))
            await until(lambda: not impostor.connections)

            assert not client.connected
            assert f"shard {shard} of {shard_count}" in events[0]["reason"]
        async with Peer(socket_path):
            await until(lambda: client.connected)
            await client.close()


async def test_a_worker_of_another_user_is_sent_nothing(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: me + 1)
    client = WorkerClient(peer.path, shard=0, shard_count=1, boot=BOOT)
    with capture_logs() as events:
        client.start()
        await until(lambda: bool(events))

    assert "served by a process of another user" in events[0]["reason"]
    assert not client.connected
    await client.close()


async def test_a_worker_that_does_not_greet_is_given_up_and_tried_again(socket_path: Path) -> None:
    patience = Patience(connect_seconds=0.05)
    client = WorkerClient(socket_path, shard=0, shard_count=1, boot=BOOT, patience=patience)
    async with Peer(socket_path, greets=False) as peer:
        client.start()
        await until(lambda: len(peer.connections) == 1)
        first = peer.connections[0]
        await until(lambda: first not in peer.connections)
        assert not client.connected

        peer.greets = True
        await until(lambda: client.connected)
        await client.close()


async def test_a_client_closed_before_the_greeting_leaves_nothing_open(socket_path: Path) -> None:
    client = WorkerClient(socket_path, shard=0, shard_count=1, boot=BOOT)
    async with Peer(socket_path, greets=False) as peer:
        client.start()
        await until(lambda: len(peer.connections) == 1)
        await client.close()
        await until(lambda: not peer.connections)

        assert not client.connected


async def test_a_worker_that_hangs_up_instead_of_greeting_is_tried_again(
    socket_path: Path,
) -> None:
    client = WorkerClient(socket_path, shard=0, shard_count=1, boot=BOOT)
    with capture_logs() as events:
        async with Peer(socket_path, greets=False) as peer:
            client.start()
            await until(lambda: len(peer.connections) == 1)
            peer.drop()
            await until(lambda: bool(events))
            assert events[0]["reason"] == "the worker closed the connection unasked"
            peer.greets = True
            peer.drop()
            await until(lambda: client.connected)
            await client.close()


async def test_garbage_ends_the_connection_and_what_was_under_way(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        peer.hold(MessageType.APPEND, MessageType.PROBE)
        appended = client.append(UNKEYED, frame_of(1))
        probed = client.probe(frame_of(1))
        await until(lambda: len(peer.requests) == 2)
        with capture_logs() as events:
            peer.connections[0].transport.write(b"HTTP/1.1 200 OK\r\n")
            with pytest.raises(OutcomeUnknown):
                await appended
        with pytest.raises(ShardUnavailable):
            await probed

        assert events[0]["event"] == "protocol_error"
        assert "unknown type" in events[0]["error"]
        await until(lambda: client.connected)


@pytest.mark.parametrize(
    ("type", "request_id", "payload"),
    [
        (MessageType.PAGE, 1, b"\x01"),
        (MessageType.APPENDED, 1, b"short"),
        (MessageType.FAILED, 1, b"no msgpack"),
        (MessageType.APPEND, 0, b""),
        (MessageType.HELLO, 0, pack(Peer(Path("unused")).hello)),
        (MessageType.STATUS, 0, b"no status"),
    ],
)
async def test_what_is_no_answer_ends_the_connection(
    peer: Peer, type: MessageType, request_id: int, payload: bytes
) -> None:
    async with connected_client(peer.path) as client:
        peer.hold(MessageType.APPEND)
        appended = client.append(UNKEYED, frame_of(1))
        await until(lambda: peer.count(MessageType.APPEND) == 1)
        peer.connections[0].send(type, request_id, payload)

        with pytest.raises(OutcomeUnknown):
            await appended


async def test_a_status_before_hello_is_garbage(socket_path: Path) -> None:
    client = WorkerClient(socket_path, shard=0, shard_count=1, boot=BOOT)
    with capture_logs() as events:
        async with Peer(socket_path, greets=False) as peer:
            client.start()
            await until(lambda: len(peer.connections) == 1)
            peer.push_status()
            await until(lambda: bool(events))
            await client.close()

    assert events[0]["reason"] == "STATUS before HELLO"


async def test_a_frame_that_the_worker_cannot_read_is_a_frame_error(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        with pytest.raises(FrameError):
            await client.append(UNKEYED, b"no frame")

        assert client.connected


async def test_a_request_that_the_worker_does_not_know_is_a_protocol_error(peer: Peer) -> None:
    async with connected_client(peer.path) as client:
        peer.hold(MessageType.QUERY)
        page = client.query(ALL)
        await until(lambda: peer.count(MessageType.QUERY) == 1)
        peer.answer(peer.connections[0], Message(MessageType.METRICS, 1, b""))
        with pytest.raises(ProtocolError, match="METRICS is no request"):
            await page
