"""The local backend over peers with real shards: what is stored, refused, unknown and answered."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.config import LimitsConfig
from flowd.errors import OutcomeUnknown, Overloaded, ShardUnavailable, StorageFull
from flowd.flow import COUNTER_MAX, RowKey
from flowd.kernel import BodyFormat, Split, load_kernel
from flowd.protocol import AppendHeader, BucketSums, MessageType, pack
from flowd.query import AnswerFormat, Query
from flowd.router import Answer, Backend, Batch, Ingested, LocalBackend, local
from flowd.worker_client import WorkerClient
from tests.peer import BOOT, Peer, until

KERNEL = load_kernel("reference")
SEED = 0x5EED
UNKEYED = Batch(batch_id=0, key_time_ms=0, arrival_ms=1)
ALL = Query(hour_from=0, hour_to=2**32, answer_format=AnswerFormat.NDJSON)

Flow = dict[str, Any]


def flow(i: int, hour: int = 91, tx: int = 1, rx: int = 2) -> Flow:
    return {
        "src_app": f"app-{i}",
        "dest_app": "db",
        "vpc_id": "vpc",
        "bytes_tx": tx,
        "bytes_rx": rx,
        "hour": hour,
    }


def flows(count: int, first: int = 0) -> list[Flow]:
    """So many flows that make a row each; enough of them touch every shard."""
    return [flow(i) for i in range(first, first + count)]


def split_of(batch: Iterable[Flow], shard_count: int) -> Split:
    return KERNEL.split(
        msgspec.json.encode(list(batch)),
        BodyFormat.JSON,
        shard_count=shard_count,
        seed=SEED,
        flows_max=100_000,
        skip_bad=False,
    )


def plain_sum(batch: Iterable[Flow]) -> list[Flow]:
    """What every answer has to be: a dictionary's sums, in the order of answers."""
    totals: dict[tuple[int, str, str, str], list[int]] = {}
    for f in batch:
        sums = totals.setdefault((f["hour"], f["vpc_id"], f["src_app"], f["dest_app"]), [0, 0])
        sums[0] += f["bytes_tx"]
        sums[1] += f["bytes_rx"]
    return [
        {
            "src_app": src_app,
            "dest_app": dest_app,
            "vpc_id": vpc_id,
            "bytes_tx": tx,
            "bytes_rx": rx,
            "hour": hour,
        }
        for (hour, vpc_id, src_app, dest_app), (tx, rx) in sorted(totals.items())
    ]


class Cluster:
    """A backend and its peers."""

    def __init__(
        self, backend: LocalBackend, clients: list[WorkerClient], peers: list[Peer]
    ) -> None:
        self.backend: Backend = backend
        self.clients = clients
        self.peers = peers

    async def post(self, batch: Iterable[Flow], keyed: int = 0) -> Ingested:
        return await self.backend.ingest(
            split_of(batch, len(self.peers)), msgspec.structs.replace(UNKEYED, batch_id=keyed)
        )

    async def rows(self, query: Query = ALL) -> list[Flow]:
        return decode(await collect(await self.backend.query(query)))

    def hold(self, *types: MessageType) -> None:
        for peer in self.peers:
            peer.hold(*types)

    def release(self) -> None:
        for peer in self.peers:
            peer.release()

    def count(self, type: MessageType) -> int:
        return sum(peer.count(type) for peer in self.peers)

    async def catch_up(self) -> None:
        """Return when the living peers have seen all that was sent to them."""
        for client in self.clients:
            if client.connected:
                await client.buckets(digest=False)

    async def appends(self) -> int:
        """How many appends were sent."""
        await self.catch_up()
        return self.count(MessageType.APPEND)

    @property
    def held_rows(self) -> int:
        return sum(peer.shard.rows for peer in self.peers)

    async def lose(self, shard: int) -> None:
        """Stop a peer and wait until the router knows."""
        await self.peers[shard].stop()
        await until(lambda: shard in self.backend.unavailable())


async def collect(answer: Answer) -> bytes:
    return b"".join([text async for text in answer])


def decode(text: bytes) -> list[Flow]:
    return [msgspec.json.decode(line) for line in text.splitlines()]


@asynccontextmanager
async def cluster(shard_count: int, limits: LimitsConfig | None = None) -> AsyncIterator[Cluster]:
    """Start peers and a backend, and wait until it is ready."""
    with tempfile.TemporaryDirectory() as directory:
        peers, clients = [], []
        for shard in range(shard_count):
            path = Path(directory) / f"worker-{shard}.sock"
            peer = Peer(path, shard, shard_count)
            await peer.start()
            peers.append(peer)
            clients.append(WorkerClient(path, shard=shard, shard_count=shard_count, boot=BOOT))
        backend = LocalBackend(KERNEL, limits or LimitsConfig(), clients)
        backend.start()
        try:
            await until(lambda: not backend.unavailable())
            yield Cluster(backend, clients, peers)
        finally:
            await backend.close()
            for peer in peers:
                await peer.stop()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> int:
    """Pages of 5 rows, so that small answers take many."""
    monkeypatch.setattr(local, "_PAGE_ROWS_MIN", 5)
    monkeypatch.setattr(local, "_PAGE_ROWS_MAX", 5)
    return 5


# Storing.


@pytest.mark.parametrize("shard_count", [1, 2, 5])
async def test_what_was_stored_is_answered_as_a_plain_sum(shard_count: int) -> None:
    batches = [flows(40), flows(30, first=20), [flow(7, hour=4, tx=5)]]
    async with cluster(shard_count) as c:
        for batch in batches:
            assert await c.post(batch) == Ingested(len(batch), duplicate=False)

        assert await c.rows() == plain_sum(f for batch in batches for f in batch)
        assert all(peer.shard.rows for peer in c.peers)


async def test_a_batch_without_flows_is_stored_without_asking_anyone() -> None:
    async with cluster(2) as c:
        assert await c.post([]) == Ingested(0, duplicate=False)
        assert await c.appends() == 0


async def test_all_shards_have_their_part_before_the_first_answers() -> None:
    async with cluster(3) as c:
        c.hold(MessageType.APPEND)
        posting = asyncio.create_task(c.post(flows(40)))
        await until(lambda: c.count(MessageType.APPEND) == 3)
        assert not posting.done()

        c.peers[2].release()
        c.peers[0].release()
        await until(lambda: c.peers[0].shard.rows > 0)
        assert not posting.done()
        c.peers[1].release()
        assert (await posting).flows == 40


async def test_only_the_shards_that_a_batch_belongs_to_are_asked() -> None:
    async with cluster(5) as c:
        await c.post([flow(1)])

        assert c.count(MessageType.APPEND) == 1


async def test_every_shard_is_told_the_batch_and_all_shards_that_it_touches() -> None:
    batch = Batch(batch_id=2**100 + 1, key_time_ms=5, arrival_ms=7)
    async with cluster(3) as c:
        split = split_of(flows(40), 3)
        del split.frames[1]
        await c.backend.ingest(split, batch)

        expected = [AppendHeader(2**100 + 1, 5, 7, shards=0b101)]
        assert [peer.appends for peer in c.peers] == [expected, [], expected]


async def test_a_batch_is_a_duplicate_when_every_shard_says_so() -> None:
    async with cluster(2) as c:
        assert not (await c.post(flows(20), keyed=5)).duplicate
        assert (await c.post(flows(20), keyed=5)).duplicate
        for peer in c.peers:
            peer.batch_ids.clear()
            assert not (await c.post(flows(20), keyed=5)).duplicate


async def test_a_retry_completes_a_batch_that_reached_one_of_two_shards() -> None:
    async with cluster(2) as c:
        c.peers[1].hold(MessageType.APPEND)
        posting = asyncio.create_task(c.post(flows(20), keyed=5))
        await until(lambda: c.count(MessageType.APPEND) == 2)
        c.peers[1].drop()
        with pytest.raises(OutcomeUnknown):
            await posting
        c.peers[1].release()
        await until(lambda: not c.backend.unavailable())

        assert not (await c.post(flows(20), keyed=5)).duplicate
        assert await c.rows() == plain_sum(flows(20))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.lists(
            st.builds(
                flow,
                st.integers(0, 8),
                hour=st.integers(0, 3),
                tx=st.integers(0, 2**60),
                rx=st.integers(0, 2**60),
            ),
            max_size=10,
        ),
        max_size=5,
    ),
    st.integers(1, 4),
    st.none() | st.integers(1, 20),
)
def test_any_batches_over_any_shards_add_up(
    batches: list[list[Flow]], shard_count: int, limit: int | None
) -> None:
    async def run() -> None:
        async with cluster(shard_count) as c:
            for batch in batches:
                await c.post(batch)
            whole = plain_sum(f for batch in batches for f in batch)
            expected = [
                row | {n: min(row[n], COUNTER_MAX) for n in ("bytes_tx", "bytes_rx")}
                for row in whole
            ]
            query = msgspec.structs.replace(ALL, limit=limit)
            assert await c.rows(query) == expected[:limit]

    asyncio.run(run())


# Refusing before the first append.


async def test_a_batch_for_a_shard_that_is_away_reaches_none() -> None:
    async with cluster(3) as c:
        await c.lose(1)
        await c.lose(2)
        with pytest.raises(ShardUnavailable, match="do not answer now: 1, 2") as raised:
            await c.post(flows(40))

        assert raised.value.shards == (1, 2)
        assert await c.appends() == 0


async def test_a_batch_for_the_living_shards_is_stored_while_another_is_away() -> None:
    async with cluster(2) as c:
        await c.lose(1)
        living = [f for f in flows(20) if list(split_of([f], 2).frames) == [0]]

        await c.post(living)

        assert c.peers[0].shard.rows == len(living) > 0


async def test_a_batch_for_a_shard_with_a_full_disk_reaches_none() -> None:
    async with cluster(2) as c:
        c.peers[1].writable = False
        c.peers[1].push_status()
        await until(lambda: not c.clients[1].status.writable)
        with pytest.raises(StorageFull, match="shard 1 takes no flows now: disk full") as raised:
            await c.post(flows(20))

        assert raised.value.reason == "disk"
        assert await c.appends() == 0


async def test_when_no_more_ids_fit_keyed_batches_are_refused_and_others_stored() -> None:
    async with cluster(1, LimitsConfig(batch_ids=2)) as c:
        await c.post(flows(1), keyed=1)
        await c.post(flows(1), keyed=2)
        with pytest.raises(Overloaded, match=r"limits\.batch_ids") as raised:
            await c.post(flows(1), keyed=3)
        assert raised.value.reason == "ids"

        await c.post(flows(1))
        assert c.peers[0].batch_ids == {1, 2}


async def test_a_batch_too_big_for_what_is_under_way_reaches_no_shard() -> None:
    async with cluster(2) as c:
        c.hold(MessageType.APPEND)
        posting = asyncio.create_task(c.post(flows(20)))
        await until(lambda: c.count(MessageType.APPEND) == 2)
        huge = Split(frames={0: b"x", 1: bytes(64 << 20)}, flows=2)
        with pytest.raises(Overloaded, match="shard 1 cannot keep up"):
            await c.backend.ingest(huge, UNKEYED)

        c.release()
        await posting
        assert await c.appends() == 2


# Rows and names.


async def test_far_from_the_limits_nobody_is_asked_for_new_rows() -> None:
    async with cluster(2, LimitsConfig(max_rows=100)) as c:
        await c.post(flows(90))

        assert c.count(MessageType.PROBE) == 0
        assert c.held_rows == 90


async def test_rows_over_the_limit_are_refused_with_nothing_stored() -> None:
    async with cluster(2, LimitsConfig(max_rows=100)) as c:
        await c.post(flows(90))
        with pytest.raises(StorageFull, match=r"90 rows are held .* 11 more") as raised:
            await c.post(flows(21, first=80))
        assert raised.value.reason == "rows"
        assert c.held_rows == 90

        await c.post(flows(20, first=80))
        assert c.held_rows == 100


async def test_at_the_limit_batches_that_only_add_to_rows_pass() -> None:
    async with cluster(2, LimitsConfig(max_rows=20, name_bytes=1)) as c:
        c.peers[0].shard.apply(KERNEL.buckets(split_of(flows(20), 1).frames[0]), 1)
        c.peers[0].push_status()
        await until(lambda: c.clients[0].status.rows == 20)
        mine = [f for f in flows(20) if list(split_of([f], 2).frames) == [0]]

        await c.post(mine)

        assert c.held_rows == 20
        assert sum(row["bytes_tx"] for row in await c.rows()) == 20 + len(mine)


async def test_batches_under_way_count_towards_the_limit() -> None:
    async with cluster(1, LimitsConfig(max_rows=10)) as c:
        await c.post(flows(9))
        c.hold(MessageType.APPEND)
        first = asyncio.create_task(c.post([flow(100)]))
        await until(lambda: c.count(MessageType.APPEND) == 2)
        with pytest.raises(StorageFull):
            await c.post([flow(101)])

        c.release()
        await first
        assert c.held_rows == 10


@pytest.mark.parametrize(
    "limits",
    [
        LimitsConfig(max_rows=10),
        LimitsConfig(name_bytes=len(split_of(flows(9), 1).frames[0]) * 3 // 2),
    ],
    ids=["rows", "names"],
)
async def test_a_batch_that_failed_no_longer_counts_towards_the_limit(
    limits: LimitsConfig,
) -> None:
    async with cluster(1, limits) as c:
        c.hold(MessageType.APPEND)
        posting = asyncio.create_task(c.post(flows(9)))
        await until(lambda: c.count(MessageType.APPEND) == 1)
        c.peers[0].drop()
        with pytest.raises(OutcomeUnknown):
            await posting
        c.release()
        await until(lambda: not c.backend.unavailable())

        await c.post(flows(9))
        assert c.count(MessageType.PROBE) == 0


async def test_names_over_the_limit_are_refused_with_nothing_stored() -> None:
    async with cluster(2, LimitsConfig(name_bytes=1_000)) as c:
        with pytest.raises(StorageFull, match=r"limits\.name_bytes is 1,000") as raised:
            await c.post(flows(100))

        assert raised.value.reason == "names"
        assert await c.appends() == 0
        await c.post(flows(10))


async def test_a_shard_lost_while_it_counts_new_rows_is_a_refusal() -> None:
    async with cluster(2, LimitsConfig(max_rows=10)) as c:
        c.hold(MessageType.PROBE)
        posting = asyncio.create_task(c.post(flows(20)))
        await until(lambda: c.count(MessageType.PROBE) == 2)
        c.peers[1].drop()
        c.peers[0].release()
        with pytest.raises(ShardUnavailable) as raised:
            await posting

        assert raised.value.shards == (1,)
        assert await c.appends() == 0


async def test_a_shard_lost_after_it_counted_new_rows_is_a_refusal() -> None:
    async with cluster(2, LimitsConfig(max_rows=21)) as c:
        c.hold(MessageType.PROBE)
        posting = asyncio.create_task(c.post(flows(20)))
        await until(lambda: c.count(MessageType.PROBE) == 2)
        c.peers[1].release()
        await c.lose(1)
        c.peers[0].release()
        with pytest.raises(ShardUnavailable):
            await posting

        assert await c.appends() == 0


# Losing a shard in mid-append, and clients that go away.


async def test_a_shard_lost_in_mid_append_leaves_the_outcome_unknown() -> None:
    async with cluster(3) as c:
        c.peers[1].hold(MessageType.APPEND)
        posting = asyncio.create_task(c.post(flows(40)))
        await until(lambda: c.count(MessageType.APPEND) == 3)
        c.peers[1].drop()
        with pytest.raises(OutcomeUnknown, match="shard 1 went away") as raised:
            await posting

        assert raised.value.shards == (1,)
        assert c.peers[0].shard.rows > 0
        assert c.peers[2].shard.rows > 0


async def test_a_frame_that_one_shard_cannot_read_leaves_the_outcome_unknown() -> None:
    async with cluster(2) as c:
        split = split_of(flows(20), 2)
        split.frames[0] = b"no frame"
        with pytest.raises(OutcomeUnknown) as raised:
            await c.backend.ingest(split, UNKEYED)

        assert raised.value.shards == (0,)


async def test_a_client_that_goes_away_in_mid_append_has_its_batch_stored() -> None:
    async with cluster(2, LimitsConfig(max_rows=30)) as c:
        c.hold(MessageType.APPEND)
        posting = asyncio.create_task(c.post(flows(20)))
        await until(lambda: c.count(MessageType.APPEND) == 2)
        posting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await posting
        c.release()

        assert await c.rows() == plain_sum(flows(20))
        await c.post(flows(10, first=20))
        assert c.held_rows == 30


async def test_a_client_that_goes_away_does_not_take_others_with_it() -> None:
    async with cluster(1) as c:
        c.hold(MessageType.APPEND)
        leaving = asyncio.create_task(c.post(flows(3)))
        staying = asyncio.create_task(c.post(flows(3)))
        await until(lambda: c.count(MessageType.APPEND) == 2)
        leaving.cancel()
        c.release()

        assert (await staying).flows == 3
        assert leaving.cancelled()


# Answers.


async def test_an_answer_of_many_pages_is_whole_and_in_order(small_pages: int) -> None:
    async with cluster(3) as c:
        await c.post(flows(100))

        assert await c.rows() == plain_sum(flows(100))
        assert c.count(MessageType.QUERY) >= 100 / small_pages


async def test_an_answer_of_nothing_is_an_empty_array() -> None:
    async with cluster(2) as c:
        answer = await c.backend.query(Query(hour_from=1, hour_to=2))

        assert msgspec.json.decode(await collect(answer)) == []
        assert answer.next_cursor is None
        assert (answer.shards_answered, answer.shards_total) == (2, 2)


async def test_no_piece_of_an_answer_is_empty(small_pages: int) -> None:
    async with cluster(3) as c:
        await c.post(flows(60))
        pieces = [piece async for piece in await c.backend.query(ALL)]

        assert len(pieces) > 3
        assert all(pieces)


async def test_at_most_one_page_of_each_shard_is_fetched_ahead(small_pages: int) -> None:
    async with cluster(2) as c:
        await c.post(flows(100))
        answer = await c.backend.query(ALL)
        await until(lambda: c.count(MessageType.QUERY) == 4)
        await anext(aiter(answer))
        await c.backend.buckets(digest=False)  # by now any further query would have come

        assert max(peer.count(MessageType.QUERY) for peer in c.peers) <= 3
        assert c.count(MessageType.QUERY) < 100 / small_pages


async def test_the_next_pages_are_on_their_way_while_one_is_merged(small_pages: int) -> None:
    async with cluster(2) as c:
        await c.post(flows(100))
        await c.backend.query(ALL)

        # Nothing was taken from the answer yet, and each shard makes its second page.
        await until(lambda: [peer.count(MessageType.QUERY) for peer in c.peers] == [2, 2])


async def test_an_answer_with_a_limit_fetches_nothing_ahead() -> None:
    async with cluster(2) as c:
        await c.post(flows(100))
        answer = await c.backend.query(msgspec.structs.replace(ALL, limit=10))

        assert decode(await collect(answer)) == plain_sum(flows(100))[:10]
        await c.catch_up()
        assert [[q.rows for q in peer.queries] for peer in c.peers] == [[10], [10]]


@pytest.mark.parametrize(("shard_count", "rows"), [(1, 4096), (4, 4096), (8, 2048)])
async def test_the_rows_asked_for_at_a_time_have_a_bound_over_all_shards(
    shard_count: int, rows: int
) -> None:
    async with cluster(shard_count) as c:
        await collect(await c.backend.query(ALL))

        assert [[q.rows for q in peer.queries] for peer in c.peers] == [[rows]] * shard_count


@pytest.mark.parametrize("limit", [1, 7, 100])
async def test_page_after_page_by_cursor_gives_the_whole_answer(
    limit: int, small_pages: int
) -> None:
    async with cluster(2) as c:
        await c.post(flows(30))
        pages: list[list[Flow]] = []
        after: RowKey | None = None
        while not pages or after is not None:
            answer = await c.backend.query(msgspec.structs.replace(ALL, limit=limit, after=after))
            pages.append(decode(await collect(answer)))
            after = answer.next_cursor

        assert [row for page in pages for row in page] == plain_sum(flows(30))
        assert [len(page) for page in pages[:-1]] == [limit] * ((30 - 1) // limit)


async def test_a_shard_that_is_away_makes_an_answer_unavailable_before_it_starts() -> None:
    async with cluster(2) as c:
        await c.lose(1)
        with pytest.raises(ShardUnavailable) as raised:
            await c.backend.query(ALL)

        assert raised.value.shards == (1,)
        assert c.count(MessageType.QUERY) == 0


async def test_a_shard_lost_before_its_first_page_makes_the_answer_unavailable() -> None:
    async with cluster(2) as c:
        c.peers[1].hold(MessageType.QUERY)
        asking = asyncio.create_task(c.backend.query(ALL))
        await until(lambda: c.count(MessageType.QUERY) == 2)
        c.peers[1].drop()
        with pytest.raises(ShardUnavailable) as raised:
            await asking

        assert raised.value.shards == (1,)


async def test_a_partial_answer_is_what_the_living_shards_have() -> None:
    partial = msgspec.structs.replace(ALL, partial=True)
    async with cluster(3) as c:
        await c.post(flows(40))
        mine = [f for f in flows(40) if list(split_of([f], 3).frames) != [1]]
        await c.lose(1)
        answer = await c.backend.query(partial)

        assert decode(await collect(answer)) == plain_sum(mine)
        assert (answer.shards_answered, answer.shards_total) == (2, 3)


async def test_a_partial_answer_goes_on_without_a_shard_lost_before_its_first_page() -> None:
    partial = msgspec.structs.replace(ALL, partial=True)
    async with cluster(2) as c:
        c.peers[0].hold(MessageType.QUERY)
        asking = asyncio.create_task(c.backend.query(partial))
        await until(lambda: c.count(MessageType.QUERY) == 2)
        c.peers[0].drop()
        answer = await asking

        assert (answer.shards_answered, answer.shards_total) == (1, 2)


async def test_a_partial_answer_of_no_shard_is_unavailable() -> None:
    partial = msgspec.structs.replace(ALL, partial=True)
    async with cluster(2) as c:
        await c.lose(0)
        await c.lose(1)
        with pytest.raises(ShardUnavailable) as raised:
            await c.backend.query(partial)

        assert raised.value.shards == (0, 1)


@pytest.mark.parametrize("partial", [False, True])
async def test_a_shard_lost_in_mid_answer_fails_the_answer(partial: bool, small_pages: int) -> None:
    async with cluster(2) as c:
        await c.post(flows(100))
        answer = await c.backend.query(msgspec.structs.replace(ALL, partial=partial))
        pieces = aiter(answer)
        await anext(pieces)
        await c.lose(1)
        with pytest.raises(ShardUnavailable) as raised:
            await collect(answer)

        assert raised.value.shards == (1,)


@pytest.mark.parametrize(
    "page", [[b"\x01", b"\x04\x00\x00\x00", b"junk"], [b"\x00"]], ids=["no frame", "no progress"]
)
async def test_a_damaged_page_is_no_answer(page: list[bytes]) -> None:
    async with cluster(2) as c:
        c.peers[1].damage = lambda type, parts: page if type is MessageType.PAGE else parts
        with pytest.raises(ShardUnavailable, match="shard 1 sent a damaged page"):
            await c.backend.query(ALL)


async def test_a_reader_that_goes_away_leaves_nothing_behind(
    small_pages: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(2) as c:
        await c.post(flows(100))
        c.peers[0].hold(MessageType.QUERY)
        asking = asyncio.create_task(c.backend.query(ALL))
        await until(lambda: c.count(MessageType.QUERY) == 2)
        asking.cancel()
        c.release()

        assert await c.rows() == plain_sum(flows(100))
        assert asking.cancelled()
    assert caplog.text == ""


async def test_an_answer_that_was_closed_gives_and_fetches_nothing_more(small_pages: int) -> None:
    async with cluster(2) as c:
        await c.post(flows(100))
        answer = await c.backend.query(ALL)
        await anext(aiter(answer))
        await c.backend.buckets(digest=False)  # behind every query that was sent
        asked = c.count(MessageType.QUERY)
        await answer.close()

        assert await collect(answer) == b""
        await c.backend.buckets(digest=False)
        assert c.count(MessageType.QUERY) == asked


# Buckets.


async def test_sums_and_digests_of_buckets_do_not_depend_on_the_number_of_shards() -> None:
    batch = flows(40) + [flow(i, hour=4) for i in range(10)]
    async with cluster(1) as one, cluster(3) as three:
        await one.post(batch)
        await three.post(batch)
        expected = await one.backend.buckets(digest=True)
        found = await three.backend.buckets(digest=True)

    assert [(b.start, b.rows, b.bytes_tx) for b in found.sums] == [(4, 10, 10), (91, 40, 40)]
    assert found.sums == expected.sums
    assert (found.shards_answered, found.shards_total) == (3, 3)


async def test_without_being_asked_for_there_are_no_digests() -> None:
    async with cluster(2) as c:
        await c.post(flows(40))
        found = await c.backend.buckets(digest=False)

    assert [b.digest for b in found.sums] == [None]


async def test_totals_of_a_bucket_saturate() -> None:
    bucket = BucketSums(
        start=91,
        width=1,
        rows=1,
        bytes_tx=COUNTER_MAX,
        bytes_rx=COUNTER_MAX - 1,
        tier="memory",
        digest="f" * 32,
    )
    async with cluster(2) as c:
        for peer in c.peers:
            peer.damage = lambda type, parts: [pack([bucket])]
        (found,) = (await c.backend.buckets(digest=True)).sums

    assert (found.rows, found.bytes_tx, found.bytes_rx) == (2, COUNTER_MAX, COUNTER_MAX)
    assert found.digest == "f" * 31 + "e"


async def test_buckets_come_in_the_order_of_their_hours_whoever_has_them() -> None:
    async with cluster(2) as c:
        for peer, hour in zip(c.peers, [91, 4], strict=True):
            frame = split_of([flow(1, hour=hour)], 1).frames[0]
            peer.shard.apply(KERNEL.buckets(frame), 1)
        found = await c.backend.buckets(digest=False)

    assert [b.start for b in found.sums] == [4, 91]


async def test_buckets_of_the_living_shards_are_given_when_asked_for() -> None:
    async with cluster(2) as c:
        await c.lose(0)
        with pytest.raises(ShardUnavailable):
            await c.backend.buckets(digest=False)
        found = await c.backend.buckets(digest=False, partial=True)

    assert (found.shards_answered, found.shards_total) == (1, 2)


# What the backend tells of itself.


async def test_the_floor_is_the_highest_of_all_shards() -> None:
    async with cluster(3) as c:
        c.peers[1].push_status(floor_ms=7)
        c.peers[2].push_status(floor_ms=5)
        await until(lambda: c.backend.floor_ms == 7)


async def test_shards_that_are_away_are_named_until_they_are_back() -> None:
    async with cluster(3) as c:
        await c.lose(1)
        assert c.backend.unavailable() == (1,)
        assert (c.backend.shards_ready, c.backend.shards_total) == (2, 3)

        await c.peers[1].start()
        await until(lambda: c.backend.unavailable() == ())
