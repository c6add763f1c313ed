"""Flows and bodies for the tests of the HTTP side."""

import json
from typing import Any

Flow = dict[str, Any]


def flow(**members: Any) -> Flow:
    usual = {
        "src_app": "foo",
        "dest_app": "bar",
        "vpc_id": "vpc-0",
        "bytes_tx": 100,
        "bytes_rx": 300,
        "hour": 91,
    }
    return usual | members


def many(count: int, hour: int = 91) -> list[Flow]:
    """So many flows that make a row each, in the order of their answer."""
    return [flow(src_app=f"app-{i:05}", hour=hour, bytes_tx=i) for i in range(count)]


def body(*flows: Flow) -> bytes:
    return json.dumps(flows).encode()


def lines(*flows: Flow) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in flows)
