"""The data plane: all that touches every flow or every row, behind one small seam.

Nothing outside of this package looks inside a frame, a page or a table. `interface` says what a
kernel offers; `reference` is the plain-Python one and the specification. Pure: no sockets, no
files, no clock.
"""

import importlib
from typing import Literal

from flowd.errors import ConfigError
from flowd.kernel.interface import (
    BodyFormat,
    Kernel,
    Merger,
    Names,
    Slice,
    Split,
    Sums,
    Table,
)
from flowd.kernel.reference import ReferenceKernel

__all__ = [
    "BodyFormat",
    "Kernel",
    "Merger",
    "Names",
    "Slice",
    "Split",
    "Sums",
    "Table",
    "load_kernel",
]


def load_kernel(choice: Literal["auto", "native", "reference"]) -> Kernel:
    """Make a kernel.

    Args:
        choice: `native` for the compiled one, `reference` for the one in Python, `auto` for the
            compiled one where it was built and otherwise the one in Python.

    Raises:
        ConfigError: `native` was chosen and is not there.
    """
    if choice != "reference":
        try:
            native = importlib.import_module("flowd._native")
        except ImportError as error:
            if choice == "native":
                raise ConfigError(
                    'kernel = "native", but flowd._native was not built for this Python: '
                    'install flowd where a Rust compiler is present, or set kernel = "auto"'
                ) from error
        else:
            kernel: Kernel = native.NativeKernel()
            return kernel
    return ReferenceKernel()
