"""What becomes of a batch and of a query: the seam is `backend`, this machine's shards `local`."""

from flowd.router.backend import Answer, Backend, Batch, Buckets, Ingested
from flowd.router.local import LocalBackend

__all__ = ["Answer", "Backend", "Batch", "Buckets", "Ingested", "LocalBackend"]
