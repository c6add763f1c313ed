import importlib.util
import os

import pytest

from flowd.kernel import Kernel, load_kernel

# FLOWD_TEST_KERNEL=native fails where the native kernel was not built; without it the tests run on
# whatever there is.
CHOSEN = os.environ.get("FLOWD_TEST_KERNEL")
BUILT = importlib.util.find_spec("flowd._native") is not None
KERNELS = (CHOSEN,) if CHOSEN else ("reference", "native") if BUILT else ("reference",)


@pytest.fixture(scope="session", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return load_kernel(request.param)


@pytest.fixture(scope="session")
def native() -> Kernel:
    """The native kernel, for tests that hold it against the reference."""
    if "native" not in KERNELS:
        pytest.skip("the native kernel was not built, or not chosen")
    return load_kernel("native")


@pytest.fixture(scope="session")
def reference() -> Kernel:
    return load_kernel("reference")
