"""Bodies to POST, the same on every run: flows like a company's, and rows to fill a table with.

A flow is drawn from 500 apps on either side by Zipf's law, 10 VPCs and 24 hours, so that 100,000
flows have about 88,000 distinct keys. All is made before a clock starts: no figure pays for it.
"""

import random
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

APPS: Final = 500
VPCS: Final = 10
HOURS: Final = 24
FIRST_HOUR: Final = 473_016
"""2023-12-18 00:00 as hours since 1970: the start of a day."""

ROWS_A_HOUR_MAX: Final = APPS * APPS * VPCS

_SOURCES: Final = [f"frontend-{app:03d}" for app in range(APPS)]
_DESTINATIONS: Final = [f"backend-{app:03d}" for app in range(APPS)]
_VPC_IDS: Final = [f"vpc-{0x0B1E5 + 4099 * vpc:08x}" for vpc in range(VPCS)]
_FLOW: Final = (
    '{"src_app": "%s", "dest_app": "%s", "vpc_id": "%s", '
    '"bytes_tx": %d, "bytes_rx": %d, "hour": %d}'
)


def random_bodies(count: int, flows: int, seed: int = 1) -> list[bytes]:
    """Make bodies of random flows.

    Args:
        count: how many bodies.
        flows: how many flows each of them holds.
        seed: another one gives other flows.
    """
    source = random.Random(seed)
    weights = list(accumulate(1 / (rank + 1) for rank in range(APPS)))
    return [_random_body(source, weights, flows) for _ in range(count)]


def distinct_bodies(rows: int, hour: int, flows: int) -> Iterator[bytes]:
    """Make bodies of flows of one hour of which no two have the same key.

    Args:
        rows: how many flows in all, at most ROWS_A_HOUR_MAX.
        hour: their hour.
        flows: how many flows a body holds at most.
    """
    if rows > ROWS_A_HOUR_MAX:
        raise ValueError(f"an hour has at most {ROWS_A_HOUR_MAX:,} distinct keys, not {rows:,}")
    for start in range(0, rows, flows):
        yield _array(
            _FLOW
            % (
                _SOURCES[index % APPS],
                _DESTINATIONS[index // APPS % APPS],
                _VPC_IDS[index // (APPS * APPS)],
                index,
                10 * index,
                hour,
            )
            for index in range(start, min(start + flows, rows))
        )


def _random_body(source: random.Random, weights: list[float], flows: int) -> bytes:
    columns = zip(
        source.choices(_SOURCES, cum_weights=weights, k=flows),
        source.choices(_DESTINATIONS, cum_weights=weights, k=flows),
        source.choices(_VPC_IDS, k=flows),
        (int(source.paretovariate(0.9) * 100) % 10**9 for _ in range(flows)),
        (int(source.paretovariate(0.9) * 500) % 10**9 for _ in range(flows)),
        source.choices(range(FIRST_HOUR, FIRST_HOUR + HOURS), k=flows),
        strict=True,
    )
    return _array(_FLOW % row for row in columns)


def _array(flows: Iterator[str]) -> bytes:
    return f"[{', '.join(flows)}]".encode()
