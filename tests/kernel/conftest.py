import pytest

from flowd.kernel import Kernel, load_kernel

KERNELS = ("reference",)


@pytest.fixture(scope="session", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return load_kernel(request.param)
