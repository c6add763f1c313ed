"""A router's end of the lines to its workers: `client`, and one `connection` of it."""

from flowd.worker_client.client import WorkerClient
from flowd.worker_client.connection import Patience

__all__ = ["Patience", "WorkerClient"]
