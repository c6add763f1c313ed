import sys
from types import SimpleNamespace

import pytest

from flowd.errors import ConfigError
from flowd.kernel import load_kernel


def test_auto_takes_the_reference_where_nothing_was_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flowd._native", None)  # importing it fails
    assert load_kernel("auto").name == "reference"


def test_native_that_was_not_built_is_a_configuration_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flowd._native", None)
    with pytest.raises(ConfigError, match=r'flowd\._native was not built.* set kernel = "auto"'):
        load_kernel("native")


@pytest.mark.parametrize("choice", ["auto", "native"])
def test_the_native_kernel_is_taken_where_it_was_built(
    monkeypatch: pytest.MonkeyPatch, choice: str
) -> None:
    built = SimpleNamespace(NativeKernel=lambda: SimpleNamespace(name="native"))
    monkeypatch.setitem(sys.modules, "flowd._native", built)
    assert load_kernel(choice).name == "native"


def test_the_reference_can_be_chosen_where_the_native_kernel_was_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flowd._native", SimpleNamespace())
    assert load_kernel("reference").name == "reference"
