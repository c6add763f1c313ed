"""Whatever happens to the shards, they hold a plain sum."""

import random
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowd.kernel import Kernel
from tests.store.shards import KERNELS, Flow, Shards, plain_sum

names = st.sampled_from(["a", "b", "ab", "c", "bc", "é", "z" * 256, "app-1", "app-2", "\U0001f600"])
flows = st.fixed_dictionaries(
    {
        "src_app": names,
        "dest_app": names,
        "vpc_id": st.sampled_from(["vpc-0", "vpc-1", "v"]),
        "bytes_tx": st.integers(0, 2**63 - 1) | st.integers(0, 1000),
        "bytes_rx": st.integers(0, 2**40),
        "hour": st.sampled_from([0, 1, 23, 24, 91, 2**32 - 1]),
    }
)
steps = st.lists(
    st.lists(flows, max_size=8) | st.sampled_from(["checkpoint", "restart", "kill"]),
    min_size=1,
    max_size=12,
)


@settings(max_examples=120, deadline=None)
@given(kernel=st.sampled_from(KERNELS), count=st.integers(1, 7), steps=steps)
def test_batches_checkpoints_and_restarts_give_a_plain_sum(
    kernel: Kernel, count: int, steps: list[Any]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        shards = Shards(Path(directory), count, kernel=kernel)
        sent: list[Flow] = []
        for step in steps:
            if step == "checkpoint":
                for store in shards.stores:
                    store.checkpoint()
            elif step == "restart":
                shards.close()
                shards.open()
            elif step == "kill":
                shards.open()
            else:
                shards.post(step)
                sent.extend(step)
            assert sum(store.flows_appended for store in shards.stores) == len(sent)
        expected = plain_sum(sent)
        assert shards.totals() == expected
        keys = [(r["hour"], r["vpc_id"], r["src_app"], r["dest_app"]) for r in shards.rows()]
        assert keys == sorted(expected, key=lambda key: (key[0], *(s.encode() for s in key[1:])))
        shards.close()


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 4), before=st.lists(flows, max_size=30), after=st.lists(flows, max_size=30)
)
def test_a_checkpoint_taken_between_appends_counts_each_flow_once(
    count: int, before: list[Any], after: list[Any]
) -> None:
    """Appends land between the blocks of a running checkpoint, and then the process dies."""
    with tempfile.TemporaryDirectory() as directory:
        shards = Shards(Path(directory), count)
        shards.post(before)
        runs = [store.begin_checkpoint() for store in shards.stores]
        late = [after[i::3] for i in range(3)]
        for run in runs:
            while (dump := run.next_block()) is not None:
                if late:
                    shards.post(late.pop())
                run.write_block(dump)
            run.finish()
        for batch in late:
            shards.post(batch)
        shards.open()
        assert shards.totals() == plain_sum([*before, *after])


def test_digest_depends_on_neither_order_nor_shard_count(tmp_path: Path) -> None:
    rng = random.Random(5)
    sent = [
        {
            "src_app": f"app-{rng.randrange(40)}",
            "dest_app": f"app-{rng.randrange(40)}",
            "vpc_id": f"vpc-{rng.randrange(3)}",
            "bytes_tx": rng.randrange(10**6),
            "bytes_rx": rng.randrange(10**6),
            "hour": rng.randrange(48),
        }
        for _ in range(2_000)
    ]
    digests = set()
    for count in (1, 2, 3, 7):
        rng.shuffle(sent)
        shards = Shards(tmp_path / str(count), count)
        for start in range(0, len(sent), 300):
            shards.post(sent[start : start + 300])
        shards.close()
        shards.open()
        digests.add(shards.digest())
    assert len(digests) == 1
    assert digests != {0}
