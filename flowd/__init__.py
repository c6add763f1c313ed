"""flowd: durable hourly sums of a company's network flows, over HTTP.

`docs/architecture.md` follows one POST and one GET through these modules, file by file. The layers
are listed, top first, in `pyproject.toml`, where import-linter reads them.
"""

__version__ = "0.1.0"
