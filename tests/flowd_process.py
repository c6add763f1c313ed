"""A real flowd for tests: `with running_flowd(tmp_path, shards=3) as flowd:`.

The same harness as the benchmark's, so that both start flowd in one way.
"""

from loadtest.processes import FlowdFailure, FlowdProcess, Response, running_flowd

__all__ = ["FlowdFailure", "FlowdProcess", "Response", "running_flowd"]
